// Dense convolution where one work-item owns a core: it gathers NR output pixels' input windows into a panel in local memory
// (which such devices keep in cache), then runs over every output channel. No pass over memory but the operands' own.
//
// Weights are packed [group][channel tile][depth][MR], depth = (input channel, kernel row, kernel column), zero beyond the last channel.
// A strip holds one input channel's rows with their padding, columns sorted by phase of the stride, so that copies are contiguous.

#ifdef RESIDUAL
#define RESIDUAL_ARGS , __global const T *restrict r, int r_off, int8 rs
#define RESIDUAL_RUN (rs.s4 == 1 && (rs.s3 == OW || OH == 1))
#else
#define RESIDUAL_ARGS
#define RESIDUAL_RUN 1
#endif

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void conv_panel(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off,
                         __global T *restrict y, int y_off, int8 ys,
                         int groups, int in_channels, int out_channels, int8 in, int8 out, int8 size, int8 stride, int8 dilation, int8 pad,
                         __local T *restrict panel, __local T *restrict strip
#ifdef BIAS
                         , __global const T *restrict bias, int bias_off, int bias_stride
#endif
                         RESIDUAL_ARGS) {
  const int H = in.s1, W = in.s2, OH = out.s1, OW = out.s2, KH = size.s1, KW = size.s2, x_row = xs.s3;
  const int SH = stride.s1, SW = stride.s2, DH = dilation.s1, DW = dilation.s2, PT = pad.s1, PL = pad.s2;
  const int pixels = OH * OW, depth = in_channels * KH * KW;
  const int first = get_global_id(0) * NR, lanes = min(NR, pixels - first);
  const int batch = get_global_id(1) / groups, group = get_global_id(1) % groups;
  const int top = first / OW, bottom = (first + lanes - 1) / OW;
  const int left = top == bottom ? first - top * OW : 0, right = top == bottom ? left + lanes : OW;
  const int column = left * SW - PL, row = top * SH - PT;
  const int phase = ((right - left - 1) * SW + (KW - 1) * DW) / SW + 1 + VW, strip_row = phase * SW;
  const int strip_rows = (bottom - top) * SH + (KH - 1) * DH + 1;
  const int direct = top == bottom && SW == 1 && lanes == NR && column >= 0 && column + NR - 1 + (KW - 1) * DW < W;

  x += x_off + batch * xs.s0 + group * in_channels * xs.s1;
  __local T *to = panel;
  for (int c = 0; c < in_channels; c++, x += xs.s1) {
    if (direct) {
      for (int kh = 0; kh < KH; kh++) {
        const int h = row + kh * DH, inside = h >= 0 && h < H;
        for (int kw = 0; kw < KW; kw++, to += NR)
          for (int j = 0; j < NV; j++) VSTORE(inside ? VLOAD(j, x + h * x_row + column + kw * DW) : (VEC)(0), j, to);
      }
      continue;
    }
    for (int s = 0; s < strip_rows; s++) {
      const int h = row + s;
      for (int p = 0; p < SW; p++) {
        __local T *cells = strip + s * strip_row + p * phase;
        const int at = column + p;
        const int begin = h < 0 || h >= H ? phase : at >= 0 ? 0 : min(phase, (SW - 1 - at) / SW);
        const int end = h < 0 || h >= H ? phase : clamp((W - at + SW - 1) / SW, begin, phase);
        __global const T *from = x + h * x_row + at;
        for (int i = 0; i < begin; i++) cells[i] = 0;
        for (int i = begin; i < end; i++) cells[i] = from[i * SW];
        for (int i = end; i < phase; i++) cells[i] = 0;
      }
    }
    for (int kh = 0; kh < KH; kh++)
      for (int kw = 0; kw < KW; kw++, to += NR) {
        __local const T *tap = strip + kh * DH * strip_row + kw * DW % SW * phase + kw * DW / SW;
        for (int o = top; o <= bottom; o++, tap += SH * strip_row) {
          const int begin = max(0, o * OW - first), end = min(lanes, (o + 1) * OW - first);
          __local const T *from = tap + first + begin - o * OW - left;
          for (int l = begin; l < end; l += VW, from += VW) VSTORE(VLOAD(0, from), 0, to + l);  // spills into the step written next
        }
      }
  }

  w += w_off + group * ((out_channels + MR - 1) / MR * MR) * depth;
  y += y_off + batch * ys.s0 + group * out_channels * ys.s1;
#ifdef RESIDUAL
  r += r_off + batch * rs.s0 + group * out_channels * rs.s1;
#endif
  const int run = ys.s4 == 1 && (ys.s3 == OW || OH == 1) && RESIDUAL_RUN;  // one run of memory
  for (int m = 0; m < out_channels; m += MR, w += MR * depth) {
    VEC acc[MR][NV];
    TILE_CLEAR(acc)
    TILE_RUN(acc, w, 1, MR, panel, NR, depth)
    for (int i = 0; i < MR && m + i < out_channels; i++) {
#ifdef BIAS
      const T shift = bias[bias_off + (group * out_channels + m + i) * bias_stride];
#else
      const T shift = 0;
#endif
      for (int j = 0; j < NV; j++) {
        VEC v = acc[i][j] + shift;
        if (run && (j + 1) * VW <= lanes) {
#ifdef RESIDUAL
          v += VLOAD(j, r + (m + i) * rs.s1 + first);
#endif
          VSTORE(ACTIVATE(VEC, v), j, y + (m + i) * ys.s1 + first);
          continue;
        }
        T lane[VW];
        VSTORE(v, 0, lane);
        for (int l = 0; l < VW && j * VW + l < lanes; l++) {
          const int p = first + j * VW + l, oh = p / OW, ow = p - oh * OW;
          T one = lane[l];
#ifdef RESIDUAL
          one += r[(m + i) * rs.s1 + oh * rs.s3 + ow * rs.s4];
#endif
          y[(m + i) * ys.s1 + oh * ys.s3 + ow * ys.s4] = ACTIVATE(T, one);
        }
      }
    }
  }
}
