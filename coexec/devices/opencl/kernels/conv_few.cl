// Convolution with few output channels, and a stride of 1 across: each element of the kernel is a shift of a row of the input. To gather panels
// would copy every row as often as the kernel has columns, for a few multiply-adds of each element.
//
// One work-item owns a core and makes NR columns of one output row, of all MR output channels. Weights: [in channel][kernel row][kernel column][MR].
// Where columns stick out of the input, its rows are copied with their padding first. vectors.clh and strip.clh come before.
//
// A residual is added where `added` is not 0; else r stands for y, and is not read.

#define NR (VW * NV)
#define EACH_VECTOR _Pragma("unroll") for (int j = 0; j < NV; j++)
#define REPLACE(v, A) v = A(VEC, v);
#ifdef BIAS
#define BIAS_OF(m) bias[bias_off + (m) * bias_stride]
#else
#define BIAS_OF(m) 0
#endif

// Adds a row of the input, from `from` on, under one row of the kernel.
#define ADD_ROW(from)                                                                                  \
  PLAIN_LOOP for (int kw = 0; kw < KW; kw++) {                                                         \
    VEC v[NV];                                                                                         \
    EACH_VECTOR v[j] = VLOAD(j, (from) + kw * DW);                                                     \
    _Pragma("unroll") for (int m = 0; m < MR; m++) {                                                   \
      const T factor = w[kw * MR + m];                                                                 \
      EACH_VECTOR acc[m][j] = FMA((VEC)(factor), v[j], acc[m][j]);                                     \
    }                                                                                                  \
  }

#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int, in_channels) V(int8, in) V(int8, out) V(int8, size)        \
  V(int8, stride) V(int8, dilation) V(int8, pad) BIAS_NUMBERS(V) V(int, r_off) V(int8, rs) V(int, added) LATE_NUMBERS(V)

struct PACKED_ few_numbers { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void conv_few(__global const T *restrict x, __global const T *restrict w, __global T *restrict y, __local T *restrict strip BIAS_ARG,
                       __global const T *restrict r, struct few_numbers numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int H = in.s1, W = in.s2, OW = out.s2, KH = size.s1, KW = size.s2, DH = dilation.s1, DW = dilation.s2;
  const int first = get_global_id(0) * NR, oh = get_global_id(1), n = get_global_id(2), lanes = min(NR, OW - first);
  const int column = first - pad.s2, row = oh * stride.s1 - pad.s1, span = NR + (KW - 1) * DW;
  const int held = (in_channels - 1) * xs.s1 + (H - 1) * xs.s3 + W;  // elements from the window's first to its last
  x += x_off + n * xs.s0;
  w += w_off;
  VEC acc[MR][NV];
  _Pragma("unroll") for (int m = 0; m < MR; m++) EACH_VECTOR acc[m][j] = (VEC)(0);
  PLAIN_LOOP for (int c = 0; c < in_channels; c++)
    PLAIN_LOOP for (int kh = 0; kh < KH; kh++, w += KW * MR) {
      const int h = row + kh * DH, at = c * xs.s1 + h * xs.s3;
      if (h < 0 || h >= H) continue;
      if (column >= 0 && column + span <= W) { ADD_ROW(x + at + column) }
      else {
        fill_row(x + at, W, held - at, column, 1, span, span + VW, 0, strip);
        ADD_ROW(strip)
      }
    }
  T sums[MR * NR];
  _Pragma("unroll") for (int m = 0; m < MR; m++) EACH_VECTOR VSTORE(acc[m][j], m * NV + j, sums);
  PLAIN_LOOP for (int m = 0; m < MR; m++) {
    __global T *to = y + y_off + n * ys.s0 + m * ys.s1 + oh * ys.s3 + first;
    __global const T *more = r + r_off + n * rs.s0 + m * rs.s1 + oh * rs.s3 + first;
    PLAIN_LOOP for (int j = 0; j * VW < lanes; j++) {
      const int some = lanes - j * VW;
      VEC v = VLOAD(m * NV + j, sums) + BIAS_OF(m);
      if (added) v += some >= VW ? VLOAD(j, more) : load_some(more + j * VW, some);
      CHOOSE(REPLACE, v)
      if (some >= VW) VSTORE(v, j, to);
      else {
        T lane[VW];
        VSTORE(v, 0, lane);
        PLAIN_LOOP for (int l = 0; l < some; l++) to[j * VW + l] = lane[l];
      }
    }
  }
  DONE_IN_STEP
}
