// Depthwise convolution where one work-item owns a core: `rows` output rows of `many` channels, one after the other, straight from the
// input. Filters of KH x KW, strides SH and SW (1 or 2), no dilation.
//
// It runs down a strip of VW columns. Each input row is loaded once and added to every output row that it reaches, so that SUMS rows of
// sums are under way at a time; an output is one chain over the filter's elements in order. The last strip overlaps the one before it.
// Loads may run beyond a row into what lies between the first and the last element of the input window; such lanes are cleared. vectors.clh comes before.

#ifdef BIAS
#define BIAS_OF(c) LOAD(T, bias, bias_off + (c) * bias_stride)
#else
#define BIAS_OF(c) 0
#endif

#define REPLACE(v, A) v = A(VEC, v);
#define SUMS ((KH + SH - 1) / SH)

// What a lane of `keep` that is 0 clears; even a NaN.
#define KEPT(v, keep) CAT(as_, VEC)(CAT(as_, LANES)(v) & (keep))

#if SW == 1
#define SPAN (KW - 1 + VW)  // elements that the vectors of a row reach over
#define TAP(from, k) VLOAD(0, (from) + (k))
#else
#define SPAN ((KW - 1) / 2 * 2 + 2 * VW)
#define TAP(from, k) ((k) & 1 ? (VEC)(VLOAD(0, (from) + (k) - 1).odd, VLOAD(1, (from) + (k) - 1).odd) \
                              : (VEC)(VLOAD(0, (from) + (k)).even, VLOAD(1, (from) + (k)).even))
#endif

#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int8, in) V(int8, out) V(int8, pad) V(int, rows) V(int, many)    \
  V(int, channels) BIAS_NUMBERS(V) RESIDUAL_NUMBERS(V) LATE_NUMBERS(V)

struct PACKED_ FORM(rows_numbers) { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void FORM(conv_depthwise_rows)(__global const T *restrict x, __global const T *restrict w, __global T *restrict y BIAS_ARG RESIDUAL_ARG,
                                        struct FORM(rows_numbers) numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int n = get_global_id(2), top = get_global_id(0) * rows, bottom = min(top + rows, out.s1);
  const int begin = get_global_id(1) * many, end = min(begin + many, channels);
  const int H = in.s1, W = in.s2, OW = out.s2;
  const int held = (channels - 1) * xs.s1 + (H - 1) * xs.s3 + W;  // elements from the window's first to its last
  const int run = ys.s3 == OW, run_channels = run && ys.s1 == out.s1 * OW && bottom - top == out.s1;
  x += x_off + n * xs.s0;
  w += w_off + begin * KH * KW;
  y += y_off + n * ys.s0;
#ifdef RESIDUAL
  r += r_off + n * rs.s0;
  const int r_held = (channels - 1) * rs.s1 + (out.s1 - 1) * rs.s3 + OW;
#endif
  for (int c = begin; c < end; c++, w += KH * KW) {
    VEC taps[KH * KW];
    _Pragma("unroll") for (int k = 0; k < KH * KW; k++) taps[k] = (VEC)(w[k]);
    const VEC shift = (VEC)(BIAS_OF(c));
    for (int q = 0; q < OW; q += VW) {
      const int left = max(0, min(q, OW - VW)), column = left * SW - pad.s2, count = min(VW, OW - left);
      LANES keep[KW];
      _Pragma("unroll") for (int k = 0; k < KW; k++) {
        const LANES at = LANE_NUMBERS * SW + (column + k);
        keep[k] = (at >= 0) & (at < W);
      }
      VEC sums[SUMS];
      _Pragma("unroll") for (int s = 0; s < SUMS; s++) sums[s] = (VEC)(0);
      PLAIN_LOOP for (int o = top - SUMS + 1; o < bottom; o++) {
        _Pragma("unroll") for (int step = KH < SH ? SH - KH : 0; step < SH; step++) {
          const int h = o * SH + KH - SH + step - pad.s1, at = c * xs.s1 + h * xs.s3 + column;
          VEC v[KW];
          if (h < 0 || h >= H)
            _Pragma("unroll") for (int k = 0; k < KW; k++) v[k] = (VEC)(0);
          else if (at >= 0 && at + SPAN <= held)
            _Pragma("unroll") for (int k = 0; k < KW; k++) v[k] = KEPT(TAP(x + at, k), keep[k]);
          else {
            T row[KW][VW];
            PLAIN_LOOP for (int k = 0; k < KW; k++)
              PLAIN_LOOP for (int l = 0; l < VW; l++) {
                const int i = column + k + l * SW;
                row[k][l] = i >= 0 && i < W ? x[at + k + l * SW] : 0;
              }
            _Pragma("unroll") for (int k = 0; k < KW; k++) v[k] = VLOAD(0, row[k]);
          }
          _Pragma("unroll") for (int s = 0; s < SUMS; s++) {
            const int kh = KH - SH + step - s * SH;
            if (kh >= 0)
              _Pragma("unroll") for (int k = 0; k < KW; k++) sums[s] = FMA(taps[kh * KW + k], v[k], sums[s]);
          }
        }
        VEC v = sums[0] + shift;
        _Pragma("unroll") for (int s = 1; s < SUMS; s++) sums[s - 1] = sums[s];
        sums[SUMS - 1] = (VEC)(0);
        if (o < top) continue;
#ifdef RESIDUAL
        const int from = c * rs.s1 + o * rs.s3 + left;
        v += from + VW <= r_held ? VLOAD(0, r + from) : load_some(r + from, count);
#endif
        CHOOSE(REPLACE, v)
        __global T *to = y + c * ys.s1 + o * ys.s3 + left;
        // A vector may run over into what this work-item writes next.
        const int room = run_channels ? ((end - c) * out.s1 - o) * OW : run ? (bottom - o) * OW : OW;
        if (count == VW || room >= VW) VSTORE(v, 0, to);
        else {
          T lane[VW];
          VSTORE(v, 0, lane);
          PLAIN_LOOP for (int l = 0; l < count; l++) to[l] = lane[l];
        }
      }
    }
  }
  DONE_IN_STEP
}
