// Largest element (LARGEST) or mean of sliding windows over planes, where one work-item owns a core: `rows` output rows of `many` channels,
// each as one run of vectors across row ends (see strip.clh); columns between rows are dropped. No window lies in the padding alone.
// A mean divides by down[row] * across[column], how many elements count.

#ifdef LARGEST
#define MEAN_ARGS
#define MEAN_NUMBERS(V)
#else
#define MEAN_ARGS , __global const T *restrict down, __global const T *restrict across
#define MEAN_NUMBERS(V) V(int, down_off) V(int, across_off)
#endif
#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, y_off) V(int8, ys) V(int8, in) V(int8, out) V(int8, size) V(int8, stride) V(int8, dilation)         \
  V(int8, pad) V(int, rows) V(int, many) V(int, channels) MEAN_NUMBERS(V) RESIDUAL_NUMBERS(V)

struct PACKED_ strip_numbers { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void pool_strip(__global const T *restrict x, __global T *restrict y, __local T *restrict planes, __local T *restrict sums MEAN_ARGS
                         RESIDUAL_ARG, struct strip_numbers numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int n = get_global_id(2), top = get_global_id(0) * rows, count = min(rows, out.s1 - top);
  const int first = get_global_id(1) * many, last = min(first + many, channels);
  const int H = in.s1, W = in.s2, KH = size.s1, KW = size.s2, OW = out.s2, SH = stride.s1, SW = stride.s2;
  const int DH = dilation.s1, DW = dilation.s2;
  const int pitch = ((OW - 1) * SW + (KW - 1) * DW) / SW + 1, phase = (((rows - 1) * SH + (KH - 1) * DH) / SH + 1) * pitch + VW;
  const int run_y = ys.s3 == OW, run_channels = run_y && ys.s1 == out.s1 * OW && count == out.s1;
#ifdef LARGEST
  const T fill = -INFINITY;
#else
  const T fill = 0;
#endif
  x += x_off + n * xs.s0 + first * xs.s1;
  y += y_off + n * ys.s0 + first * ys.s1 + top * ys.s3;
  for (int c = first; c < last; c++, x += xs.s1, y += ys.s1) {
    fill_planes(x, xs.s3, H, W, (channels - 1 - c) * xs.s1 + (H - 1) * xs.s3 + W, top * SH - pad.s1, -pad.s2, (count - 1) * SH + (KH - 1) * DH + 1,
                SH, SW, pitch, phase, fill, planes);
    for (int q = 0; q < count * pitch; q += VW * NV) {
      VEC acc[NV];
      _Pragma("unroll") for (int j = 0; j < NV; j++) acc[j] = (VEC)(fill);
      for (int kh = 0, row = 0, down_phase = 0; kh < KH; kh++) {
        for (int kw = 0, column = 0, across_phase = 0; kw < KW; kw++) {
          __local const T *from = planes + (down_phase * SW + across_phase) * phase + row * pitch + column + q;
          _Pragma("unroll") for (int j = 0; j < NV; j++) {
            const VEC v = VLOAD(j, from);
#ifdef LARGEST
            acc[j] = (v > acc[j]) | (v != v) ? v : acc[j];
#else
            acc[j] += v;
#endif
          }
          for (across_phase += DW; across_phase >= SW; across_phase -= SW) column++;
        }
        for (down_phase += DH; down_phase >= SH; down_phase -= SH) row++;
      }
      _Pragma("unroll") for (int j = 0; j < NV; j++) VSTORE(acc[j], j, sums + q);
    }
    for (int o = 0; o < count; o++) {
      __global T *to = y + o * ys.s3;
      __local const T *from = sums + o * pitch;
      const int room = run_channels ? ((last - c) * out.s1 - o) * OW : run_y ? (count - o) * OW : OW;
      int i = 0;
#ifndef LARGEST
      const T high = down[down_off + top + o];
#endif
#ifndef RESIDUAL
      for (; i < OW && i + VW <= room; i += VW) {  // may run over into what is written next
        VEC v = VLOAD(0, from + i);
#ifndef LARGEST
        v /= high * VLOAD(0, across + across_off + i);
#endif
        VSTORE(ACTIVATE(VEC, v), 0, to + i);
      }
#endif
      for (; i < OW; i++) {
        T v = from[i];
#ifndef LARGEST
        v /= high * across[across_off + i];
#endif
#ifdef RESIDUAL
        v += r[r_off + n * rs.s0 + c * rs.s1 + (top + o) * rs.s3 + i];
#endif
        to[i] = ACTIVATE(T, v);
      }
    }
  }
  DONE_IN_STEP
}
