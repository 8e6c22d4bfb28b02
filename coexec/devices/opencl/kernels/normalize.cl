// Statistics of lines of elements, and what is made of them. A line is every element of the reduced axes at one place of the others;
// GROUP work-items share it. Axes are innermost first; n0 is the extent of the innermost reduced axis, `outer` the number of its runs.
//
// One of: STANDARD ((x - mean) / sqrt(var + epsilon)), MVN ((x - mean) / (sqrt(var) + epsilon)), RMS (x / sqrt(mean(x^2) + epsilon)),
// NORM1, NORM2 (x / norm, 0 where the norm is), or for the kernel line_pool: AVERAGE, NORM1, NORM2, NORMP, LARGEST.
// With RUNNING, STANDARD mixes its mean and variance with old ones: old * momentum + new * (1 - momentum).
// V > 1: vectors along the innermost reduced axis; needs x and y to lie side by side there, T == ACC, and GROUP 1.

#if V > 1
#define VEC CAT(ACC, V)
#define VLOAD CAT(vload, V)
#define VSTORE CAT(vstore, V)
#endif
#define SUM_(a, b) ((a) + (b))
#define LARGER_(a, b) (((a) > (b)) | ((a) != (a)) ? (a) : (b))

#if defined(RMS) || defined(NORM2)
#define TERM(A, v) ((v) * (v))
#elif defined(NORM1)
#define TERM(A, v) fabs(v)
#elif defined(NORMP)
#define TERM(A, v) pow(fabs(v), (A)(power))
#else
#define TERM(A, v) (v)
#endif
#define SQUARED(A, v) (((v) - (A)(mean)) * ((v) - (A)(mean)))

// sum = COMBINE over the line of WHAT(element), starting at START
#if V > 1
#define OVER_LINE(sum, WHAT, COMBINE, START)                                                                   \
  {                                                                                                            \
    VEC many = (VEC)(START);                                                                                   \
    sum = START;                                                                                               \
    for (int o = 0; o < outer; o++) {                                                                          \
      __global const T *from = x + place(o * n0, reduced, x_reduced);                                          \
      int i = 0;                                                                                               \
      for (; i + V <= n0; i += V) { const VEC v_ = VLOAD(0, from + i); many = COMBINE(many, WHAT(VEC, v_)); }  \
      for (; i < n0; i++) { const ACC v_ = from[i]; sum = COMBINE(sum, WHAT(ACC, v_)); }                       \
    }                                                                                                          \
    ACC part[V];                                                                                               \
    VSTORE(many, 0, part);                                                                                     \
    for (int l = 0; l < V; l++) sum = COMBINE(sum, part[l]);                                                   \
  }
#else
#define OVER_LINE(sum, WHAT, COMBINE, START)                                                                   \
  {                                                                                                            \
    sum = START;                                                                                               \
    for (int o = 0; o < outer; o++) {                                                                          \
      __global const T *from = x + place(o * n0, reduced, x_reduced);                                          \
      for (int i = LANE; i < n0; i += GROUP) { const ACC v_ = (ACC)LOAD(T, from, i * x_reduced.s0); sum = COMBINE(sum, WHAT(ACC, v_)); } \
    }                                                                                                          \
    ACROSS(ACC, shared_, sum, COMBINE)                                                                         \
  }
#endif

#ifdef LINE_POOL
__kernel void line_pool(__global const T *restrict x, int x_off, int8 x_kept, int8 x_reduced, __global T *restrict y, int y_off,
                        int8 y_kept,
                        int8 kept, int8 reduced, int n0, int outer, int lines, int power, ACC inverse
#ifdef RESIDUAL
                        , __global const T *restrict r, int r_off, int8 r_kept
#endif
) {
  SHARED(ACC, shared_)
  if (LINE >= lines) return;  // never one work-item of a group alone
  x += x_off + place(LINE, kept, x_kept);
  ACC value;
#ifdef LARGEST
  OVER_LINE(value, TERM, LARGER_, (ACC)(-INFINITY))
#else
  OVER_LINE(value, TERM, SUM_, (ACC)0)
#endif
#if defined(AVERAGE)
  value *= inverse;  // of the count, rounded by the host: drivers divide each in their own way
#elif defined(NORM2)
  value = sqrt(value);
#elif defined(NORMP)
  value = pow(value, (ACC)1 / (ACC)power);
#endif
  if (LANE) return;
#ifdef RESIDUAL
  value += (ACC)LOAD(T, r, r_off + place(LINE, kept, r_kept));
#endif
  STORE(T, y, y_off + place(LINE, kept, y_kept), ACTIVATE(ACC, value));
}
#else
__kernel void normalize_lines(__global const T *restrict x, int x_off, int8 x_kept, int8 x_reduced, __global T *restrict y, int y_off,
                              int8 y_kept, int8 y_reduced,
                        int8 kept, int8 reduced, int n0, int outer, int lines, ACC epsilon
#ifdef SCALE
                        , __global const T *restrict scale, int scale_off, int8 s_kept, int8 s_reduced
#endif
#ifdef BIAS
                        , __global const T *restrict bias, int bias_off, int8 b_kept, int8 b_reduced
#endif
#ifdef RESIDUAL
                        , __global const T *restrict r, int r_off, int8 r_kept, int8 r_reduced
#endif
#ifdef MEAN
                        , __global TS *restrict means, int means_off, int8 mean_kept
#endif
#ifdef INVERSE
                        , __global TS *restrict inverses, int inverses_off, int8 inverse_kept
#endif
#ifdef RUNNING
                        , ACC momentum, __global const T *restrict old_mean, int old_mean_off, int8 old_mean_kept,
                        __global const T *restrict old_var, int old_var_off, int8 old_var_kept
#endif
#ifdef RUNNING_MEAN
                        , __global T *restrict new_mean, int new_mean_off, int8 new_mean_kept
#endif
#ifdef RUNNING_VAR
                        , __global T *restrict new_var, int new_var_off, int8 new_var_kept
#endif
) {
  SHARED(ACC, shared_)
  if (LINE >= lines) return;
  x += x_off + place(LINE, kept, x_kept);
  y += y_off + place(LINE, kept, y_kept);
#ifdef SCALE
  scale += scale_off + place(LINE, kept, s_kept);
#endif
#ifdef BIAS
  bias += bias_off + place(LINE, kept, b_kept);
#endif
#ifdef RESIDUAL
  r += r_off + place(LINE, kept, r_kept);
#endif
  const ACC count = (ACC)(n0 * outer);
  ACC mean = 0, sum, factor;
  OVER_LINE(sum, TERM, SUM_, (ACC)0)
#if defined(STANDARD) || defined(MVN)
  mean = sum / count;
  OVER_LINE(sum, SQUARED, SUM_, (ACC)0)
#endif
#if defined(STANDARD) || defined(RMS)
  factor = (ACC)1 / sqrt(sum / count + epsilon);
#elif defined(MVN)
  factor = (ACC)1 / (sqrt(sum / count) + epsilon);
#else
#ifdef NORM2
  sum = sqrt(sum);
#endif
  factor = sum == 0 ? (ACC)0 : (ACC)1 / sum;
#endif
#ifdef MEAN
  if (LANE == 0) STORE(TS, means, means_off + place(LINE, kept, mean_kept), mean);
#endif
#ifdef INVERSE
  if (LANE == 0) STORE(TS, inverses, inverses_off + place(LINE, kept, inverse_kept), factor);
#endif
#ifdef RUNNING_MEAN
  if (LANE == 0)
    STORE(T, new_mean, new_mean_off + place(LINE, kept, new_mean_kept),
          (ACC)LOAD(T, old_mean, old_mean_off + place(LINE, kept, old_mean_kept)) * momentum + mean * ((ACC)1 - momentum));
#endif
#ifdef RUNNING_VAR
  if (LANE == 0)
    STORE(T, new_var, new_var_off + place(LINE, kept, new_var_kept),
          (ACC)LOAD(T, old_var, old_var_off + place(LINE, kept, old_var_kept)) * momentum + sum / count * ((ACC)1 - momentum));
#endif
  for (int o = 0; o < outer; o++) {
    __global const T *from = x + place(o * n0, reduced, x_reduced);
    __global T *to = y + place(o * n0, reduced, y_reduced);
#ifdef SCALE
    __global const T *scale_ = scale + place(o * n0, reduced, s_reduced);
#endif
#ifdef BIAS
    __global const T *bias_ = bias + place(o * n0, reduced, b_reduced);
#endif
#ifdef RESIDUAL
    __global const T *r_ = r + place(o * n0, reduced, r_reduced);
#endif
    int i = LANE;
#if V > 1
    for (; i + V <= n0; i += V) {
      VEC v = (VLOAD(0, from + i) - (VEC)(mean)) * (VEC)(factor);
#ifdef SCALE
      v *= s_reduced.s0 ? VLOAD(0, scale_ + i) : (VEC)(scale_[0]);
#endif
#ifdef BIAS
      v += b_reduced.s0 ? VLOAD(0, bias_ + i) : (VEC)(bias_[0]);
#endif
#ifdef RESIDUAL
      v += VLOAD(0, r_ + i);
#endif
      VSTORE(ACTIVATE(VEC, v), 0, to + i);
    }
#endif
    for (; i < n0; i += GROUP) {
      ACC v = ((ACC)LOAD(T, from, i * x_reduced.s0) - mean) * factor;
#ifdef SCALE
      v *= (ACC)LOAD(T, scale_, i * s_reduced.s0);
#endif
#ifdef BIAS
      v += (ACC)LOAD(T, bias_, i * b_reduced.s0);
#endif
#ifdef RESIDUAL
      v += (ACC)LOAD(T, r_, i * r_reduced.s0);
#endif
      STORE(T, to, i * y_reduced.s0, ACTIVATE(ACC, v));
    }
  }
}
#endif
