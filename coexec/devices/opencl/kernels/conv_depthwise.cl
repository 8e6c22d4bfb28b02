// Depthwise convolution: one filter per channel, size KH x KW.

#ifdef RESIDUAL
#define RESIDUAL_ARGS , __global const T *restrict r, int r_off, int8 rs
#else
#define RESIDUAL_ARGS
#endif
#ifdef BIAS
#define BIAS_ARGS , __global const T *restrict bias, int bias_off, int bias_stride
#define BIAS_OF(c) LOAD(T, bias, bias_off + (c) * bias_stride)
#else
#define BIAS_ARGS
#define BIAS_OF(c) 0
#endif

#ifdef VW
// One work-item owns a core and makes `rows` output rows of `many` channels, one after the other. It copies the input they need, padding
// included, into local memory (strip.clh comes before), so that the output is one run of vectors across row ends; columns between rows
// are dropped. Where rows or whole channels of y lie one behind the other, a vector may run over into what this work-item writes next.
__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void conv_depthwise_strip(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off,
                                   __global T *restrict y, int y_off, int8 ys,
                                   int8 in, int8 out, int8 stride, int8 dilation, int8 pad, int rows, int many, int channels,
                                   __local T *restrict plane, __local T *restrict sums BIAS_ARGS RESIDUAL_ARGS) {
  const int n = get_global_id(2), top = get_global_id(0) * rows, count = min(rows, out.s1 - top);
  const int begin = get_global_id(1) * many, end = min(begin + many, channels);
  const int H = in.s1, W = in.s2, OW = out.s2, SH = stride.s1, SW = stride.s2, DH = dilation.s1, DW = dilation.s2;
  const int pitch = ((OW - 1) * SW + (KW - 1) * DW) / SW + 1, plane_rows = ((rows - 1) * SH + (KH - 1) * DH) / SH + 1;
  const int phase = plane_rows * pitch + VW;
  const int run_y = ys.s3 == OW, run_channels = run_y && ys.s1 == out.s1 * OW && count == out.s1;
  int at[KH * KW];
  _Pragma("unroll") for (int kh = 0; kh < KH; kh++)
  _Pragma("unroll") for (int kw = 0; kw < KW; kw++)
    at[kh * KW + kw] = (kh * DH % SH * SW + kw * DW % SW) * phase + kh * DH / SH * pitch + kw * DW / SW;
  x += x_off + n * xs.s0 + begin * xs.s1;
  w += w_off + begin * KH * KW;
  y += y_off + n * ys.s0 + begin * ys.s1 + top * ys.s3;
  for (int c = begin; c < end; c++, x += xs.s1, y += ys.s1, w += KH * KW) {
    fill_planes(x, xs.s3, H, W, (channels - 1 - c) * xs.s1 + (H - 1) * xs.s3 + W, top * SH - pad.s1, -pad.s2, (count - 1) * SH + (KH - 1) * DH + 1,
                SH, SW, pitch, phase, 0, plane);
    T taps[KH * KW];
    _Pragma("unroll") for (int k = 0; k < KH * KW; k++) taps[k] = w[k];
    const VEC shift = (VEC)(BIAS_OF(c));
    for (int q = 0; q < count * pitch; q += VW * NV) {
      VEC acc[NV];
      _Pragma("unroll") for (int j = 0; j < NV; j++) acc[j] = (VEC)(0);
      _Pragma("unroll") for (int k = 0; k < KH * KW; k++) {
        __local const T *from = plane + at[k] + q;
        _Pragma("unroll") for (int j = 0; j < NV; j++) acc[j] = FMA((VEC)(taps[k]), VLOAD(j, from), acc[j]);
      }
      _Pragma("unroll") for (int j = 0; j < NV; j++) {
        acc[j] += shift;
#ifndef RESIDUAL
        acc[j] = ACTIVATE(VEC, acc[j]);
#endif
        VSTORE(acc[j], j, sums + q);
      }
    }
    for (int o = 0; o < count; o++) {
      __global T *to = y + o * ys.s3;
      __local const T *from = sums + o * pitch;
      int i = 0;
#ifdef RESIDUAL
      __global const T *more = r + r_off + n * rs.s0 + c * rs.s1 + (top + o) * rs.s3;
      for (; i < OW; i++) {
        const T v = from[i] + more[i];
        to[i] = ACTIVATE(T, v);
      }
#else
      const int room = run_channels ? ((end - c) * out.s1 - o) * OW : run_y ? (count - o) * OW : OW;
      for (; i < OW && i + VW <= room; i += VW) VSTORE(VLOAD(0, from + i), 0, to + i);
      for (; i < OW; i++) to[i] = from[i];
#endif
    }
  }
}
#else
// One work-item makes PER neighbouring outputs of a row. Any stride of memory.
__kernel void conv_depthwise_items(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off,
                                   __global T *restrict y, int y_off, int8 ys,
                                   int8 in, int8 out, int8 stride, int8 dilation, int8 pad BIAS_ARGS RESIDUAL_ARGS) {
  const int groups = (out.s2 + PER - 1) / PER, c = get_global_id(1), n = get_global_id(2);
  const int oh = get_global_id(0) / groups, first = get_global_id(0) % groups * PER;
  if (oh >= out.s1) return;
  x += x_off + n * xs.s0 + c * xs.s1;
  w += w_off + c * KH * KW;
  ACC sums[PER];
  for (int i = 0; i < PER; i++) sums[i] = 0;
  for (int kh = 0; kh < KH; kh++) {
    const int h = oh * stride.s1 - pad.s1 + kh * dilation.s1;
    if (h < 0 || h >= in.s1) continue;
    for (int kw = 0; kw < KW; kw++) {
      const ACC tap = LOAD(T, w, kh * KW + kw);
      _Pragma("unroll") for (int i = 0; i < PER; i++) {
        const int at = (first + i) * stride.s2 - pad.s2 + kw * dilation.s2;
        if (at >= 0 && at < in.s2) sums[i] = FMA(tap, LOAD(T, x, h * xs.s3 + at * xs.s4), sums[i]);
      }
    }
  }
  for (int i = 0; i < PER && first + i < out.s2; i++) {
    sums[i] += BIAS_OF(c);
#ifdef RESIDUAL
    sums[i] += LOAD(T, r, r_off + n * rs.s0 + c * rs.s1 + oh * rs.s3 + (first + i) * rs.s4);
#endif
    STORE(T, y, y_off + n * ys.s0 + c * ys.s1 + oh * ys.s3 + (first + i) * ys.s4, ACTIVATE(ACC, sums[i]));
  }
}
#endif
