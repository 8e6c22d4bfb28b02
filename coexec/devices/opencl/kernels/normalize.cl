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

// The lines of a work-item: `many` one after the other where it owns a core, else the one that it has a share of.
#ifdef IN_ONE
#define EACH_LINE for (int line = get_global_id(0) * many, stop_ = min(line + many, lines); line < stop_; line++)
#else
#define EACH_LINE for (int line = LINE; line < lines; line = lines)  // never one work-item of a group alone
#endif

#ifdef LINE_POOL
#define NUMBERS(V) V(int, x_off) V(int8, x_kept) V(int8, x_reduced) V(int, y_off) V(int8, y_kept) V(int8, kept) V(int8, reduced) V(int, n0) \
  V(int, outer) V(int, lines) V(int, many) V(int, power) V(ACC, inverse) LINE_RESIDUAL(V)
#ifdef RESIDUAL
#define LINE_RESIDUAL(V) V(int, r_off) V(int8, r_kept)
#else
#define LINE_RESIDUAL(V)
#endif

IN_A_STRUCT(line_pool_numbers)

__kernel void line_pool(__global const T *restrict all, __global T *restrict y RESIDUAL_ARG ALL_NUMBERS(line_pool_numbers)) {
  BEGIN_IN_STEP
  SHARED(ACC, shared_)
  EACH_LINE {
    __global const T *x = all + x_off + place(line, kept, x_kept);
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
    if (LANE == 0) {
#ifdef RESIDUAL
      value += (ACC)LOAD(T, r, r_off + place(line, kept, r_kept));
#endif
      STORE(T, y, y_off + place(line, kept, y_kept), ACTIVATE(ACC, value));
    }
  }
  END_IN_STEP
}
#else
#ifdef SCALE
#define SCALE_ARG , __global const T *restrict scales
#define SCALE_NUMBERS(V) V(int, scale_off) V(int8, s_kept) V(int8, s_reduced)
#else
#define SCALE_ARG
#define SCALE_NUMBERS(V)
#endif
#ifdef BIAS
#define LINE_BIAS_ARG , __global const T *restrict biases
#define LINE_BIAS_NUMBERS(V) V(int, bias_off) V(int8, b_kept) V(int8, b_reduced)
#else
#define LINE_BIAS_ARG
#define LINE_BIAS_NUMBERS(V)
#endif
#ifdef RESIDUAL
#define LINE_RESIDUAL_ARG , __global const T *restrict residuals
#define LINE_RESIDUAL_NUMBERS(V) V(int, r_off) V(int8, r_kept) V(int8, r_reduced)
#else
#define LINE_RESIDUAL_ARG
#define LINE_RESIDUAL_NUMBERS(V)
#endif
#ifdef MEAN
#define MEAN_ARG , __global TS *restrict means
#define MEAN_NUMBERS(V) V(int, means_off) V(int8, mean_kept)
#else
#define MEAN_ARG
#define MEAN_NUMBERS(V)
#endif
#ifdef INVERSE
#define INVERSE_ARG , __global TS *restrict inverses
#define INVERSE_NUMBERS(V) V(int, inverses_off) V(int8, inverse_kept)
#else
#define INVERSE_ARG
#define INVERSE_NUMBERS(V)
#endif
#ifdef RUNNING
#define RUNNING_ARG , __global const T *restrict old_mean, __global const T *restrict old_var
#define RUNNING_NUMBERS(V) V(ACC, momentum) V(int, old_mean_off) V(int8, old_mean_kept) V(int, old_var_off) V(int8, old_var_kept)
#else
#define RUNNING_ARG
#define RUNNING_NUMBERS(V)
#endif
#ifdef RUNNING_MEAN
#define NEW_MEAN_ARG , __global T *restrict new_mean
#define NEW_MEAN_NUMBERS(V) V(int, new_mean_off) V(int8, new_mean_kept)
#else
#define NEW_MEAN_ARG
#define NEW_MEAN_NUMBERS(V)
#endif
#ifdef RUNNING_VAR
#define NEW_VAR_ARG , __global T *restrict new_var
#define NEW_VAR_NUMBERS(V) V(int, new_var_off) V(int8, new_var_kept)
#else
#define NEW_VAR_ARG
#define NEW_VAR_NUMBERS(V)
#endif
#define NUMBERS(V) V(int, x_off) V(int8, x_kept) V(int8, x_reduced) V(int, y_off) V(int8, y_kept) V(int8, y_reduced) V(int8, kept) \
  V(int8, reduced) V(int, n0) V(int, outer) V(int, lines) V(int, many) V(ACC, epsilon) SCALE_NUMBERS(V) LINE_BIAS_NUMBERS(V)       \
  LINE_RESIDUAL_NUMBERS(V) MEAN_NUMBERS(V) INVERSE_NUMBERS(V) RUNNING_NUMBERS(V) NEW_MEAN_NUMBERS(V) NEW_VAR_NUMBERS(V)

IN_A_STRUCT(normalize_numbers)

__kernel void normalize_lines(__global const T *restrict all, __global T *restrict made SCALE_ARG LINE_BIAS_ARG LINE_RESIDUAL_ARG MEAN_ARG
                              INVERSE_ARG RUNNING_ARG NEW_MEAN_ARG NEW_VAR_ARG ALL_NUMBERS(normalize_numbers)) {
  BEGIN_IN_STEP
  SHARED(ACC, shared_)
  EACH_LINE {
  __global const T *x = all + x_off + place(line, kept, x_kept);
  __global T *y = made + y_off + place(line, kept, y_kept);
#ifdef SCALE
  __global const T *scale = scales + scale_off + place(line, kept, s_kept);
#endif
#ifdef BIAS
  __global const T *bias = biases + bias_off + place(line, kept, b_kept);
#endif
#ifdef RESIDUAL
  __global const T *r = residuals + r_off + place(line, kept, r_kept);
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
  if (LANE == 0) STORE(TS, means, means_off + place(line, kept, mean_kept), mean);
#endif
#ifdef INVERSE
  if (LANE == 0) STORE(TS, inverses, inverses_off + place(line, kept, inverse_kept), factor);
#endif
#ifdef RUNNING_MEAN
  if (LANE == 0)
    STORE(T, new_mean, new_mean_off + place(line, kept, new_mean_kept),
          (ACC)LOAD(T, old_mean, old_mean_off + place(line, kept, old_mean_kept)) * momentum + mean * ((ACC)1 - momentum));
#endif
#ifdef RUNNING_VAR
  if (LANE == 0)
    STORE(T, new_var, new_var_off + place(line, kept, new_var_kept),
          (ACC)LOAD(T, old_var, old_var_off + place(line, kept, old_var_kept)) * momentum + sum / count * ((ACC)1 - momentum));
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
  END_IN_STEP
}
#endif
