// Convolution and its transpose, any group, dilation, padding and stride of memory, up to three spatial axes: one output a work-item.
//
// int8 arguments hold (batch, channel, depth, height, width) for strides in elements, (depth, height, width) for the rest.
// ACC is the type of the sum; window coordinates are local to the piece, so `pad` already counts from its first output.

#ifdef RESIDUAL
#define RESIDUAL_ARGS , __global const T *restrict r, int r_off, int8 rs
#define ADD_RESIDUAL(v, n, c, d, h, w) v += (ACC)LOAD(T, r, r_off + (n) * rs.s0 + (c) * rs.s1 + (d) * rs.s2 + (h) * rs.s3 + (w) * rs.s4);
#else
#define RESIDUAL_ARGS
#define ADD_RESIDUAL(v, n, c, d, h, w)
#endif
#ifdef BIAS
#define BIAS_ARGS , __global const T *restrict bias, int bias_off, int bias_stride
#define BIAS_OF(c) (ACC)LOAD(T, bias, bias_off + (c) * bias_stride)
#else
#define BIAS_ARGS
#define BIAS_OF(c) (ACC)0
#endif

__kernel void conv_direct(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off, int8 ws,
                          __global T *restrict y, int y_off, int8 ys, int in_channels, int out_channels, int8 in, int8 out,
                          int8 size, int8 stride, int8 dilation, int8 pad BIAS_ARGS RESIDUAL_ARGS) {
  const int position = get_global_id(0), oc = get_global_id(1), n = get_global_id(2);
  if (position >= out.s0 * out.s1 * out.s2) return;
  const int ow = position % out.s2, oh = position / out.s2 % out.s1, od = position / (out.s2 * out.s1);
  x += x_off + n * xs.s0 + oc / out_channels * in_channels * xs.s1;
  w += w_off + oc * ws.s0;
  const int d0 = od * stride.s0 - pad.s0, h0 = oh * stride.s1 - pad.s1, w0 = ow * stride.s2 - pad.s2;
  ACC sum = BIAS_OF(oc);
  for (int c = 0; c < in_channels; c++)
    for (int kd = 0; kd < size.s0; kd++) {
      const int d = d0 + kd * dilation.s0;
      if (d < 0 || d >= in.s0) continue;
      for (int kh = 0; kh < size.s1; kh++) {
        const int h = h0 + kh * dilation.s1;
        if (h < 0 || h >= in.s1) continue;
        for (int kw = 0; kw < size.s2; kw++) {
          const int i = w0 + kw * dilation.s2;
          if (i < 0 || i >= in.s2) continue;
          sum = FMA((ACC)LOAD(T, x, c * xs.s1 + d * xs.s2 + h * xs.s3 + i * xs.s4),
                    (ACC)LOAD(T, w, c * ws.s1 + kd * ws.s2 + kh * ws.s3 + kw * ws.s4), sum);
        }
      }
    }
  ADD_RESIDUAL(sum, n, oc, od, oh, ow)
  STORE(T, y, y_off + n * ys.s0 + oc * ys.s1 + od * ys.s2 + oh * ys.s3 + ow * ys.s4, ACTIVATE(ACC, sum));
}

// w is (in channel, out channel of the group, depth, height,
// width); `pad` is what brings an output index to its taps: o + pad = i * stride + k * dilation.
__kernel void conv_transpose_direct(__global const T *restrict x, int x_off, int8 xs, __global const T *restrict w, int w_off, int8 ws,
                                    __global T *restrict y, int y_off, int8 ys, int in_channels, int out_channels, int8 in, int8 out,
                                    int8 size, int8 stride, int8 dilation, int8 pad BIAS_ARGS RESIDUAL_ARGS) {
  const int position = get_global_id(0), oc = get_global_id(1), n = get_global_id(2), group = oc / out_channels;
  if (position >= out.s0 * out.s1 * out.s2) return;
  const int ow = position % out.s2, oh = position / out.s2 % out.s1, od = position / (out.s2 * out.s1);
  x += x_off + n * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * in_channels * ws.s0 + (oc - group * out_channels) * ws.s1;
  ACC sum = BIAS_OF(oc);
  for (int kd = 0; kd < size.s0; kd++) {
    const int d = od + pad.s0 - kd * dilation.s0;
    if (d < 0 || d % stride.s0 || d / stride.s0 >= in.s0) continue;
    for (int kh = 0; kh < size.s1; kh++) {
      const int h = oh + pad.s1 - kh * dilation.s1;
      if (h < 0 || h % stride.s1 || h / stride.s1 >= in.s1) continue;
      for (int kw = 0; kw < size.s2; kw++) {
        const int i = ow + pad.s2 - kw * dilation.s2;
        if (i < 0 || i % stride.s2 || i / stride.s2 >= in.s2) continue;
        __global const T *from = x + d / stride.s0 * xs.s2 + h / stride.s1 * xs.s3 + i / stride.s2 * xs.s4;
        __global const T *tap = w + kd * ws.s2 + kh * ws.s3 + kw * ws.s4;
        for (int c = 0; c < in_channels; c++) sum = FMA((ACC)LOAD(T, from, c * xs.s1), (ACC)LOAD(T, tap, c * ws.s0), sum);
      }
    }
  }
  ADD_RESIDUAL(sum, n, oc, od, oh, ow)
  STORE(T, y, y_off + n * ys.s0 + oc * ys.s1 + od * ys.s2 + oh * ys.s3 + ow * ys.s4, ACTIVATE(ACC, sum));
}
