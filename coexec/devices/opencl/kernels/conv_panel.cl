// Dense convolution where one work-item owns a core: it gathers NR output pixels' input windows into a panel in local memory
// (which such devices keep in cache), then runs over every output channel. No pass over memory but the operands' own.
//
// Weights are packed [group][strip of channels][depth][channel of the strip], depth = (input channel, kernel row, kernel column), zero
// beyond the last channel: strips are `wide` channels up to channel `turn`, then `narrow`, both multiples of MR.
// A strip holds one input channel's rows with their padding (strip.clh). Where the panel would outgrow the cache, `unit` input channels
// are taken at a time, and the sums wait in `sums` [channel tile][MR][NR] meanwhile.
//
// A residual is added where `added` is not 0; else r stands for y, and is not read.

#define RESIDUAL_VECTOR(i, j) VLOAD(j, r + (m + i) * rs.s1 + first)
#ifdef BIAS
#define BIAS_OF(i) shift[(m + i) * bias_stride]
#else
#define BIAS_OF(i) 0
#endif

#define REPLACE(v, A) v = A(VEC, v);
#define STORE_TILE(V, A)                                                                               \
  FOR_TILE(V) {                                                                                        \
    const VEC v = acc[i][j] + BIAS_OF(i);                                                              \
    VSTORE(A(VEC, v), j, y + (m + i) * ys.s1 + first);                                                 \
  }

#define TILE(V) {                                                                                      \
  VEC acc[MR][V];                                                                                      \
  if (c0 == 0) { TILE_CLEAR(acc, V) }                                                                  \
  else { FOR_TILE(V) acc[i][j] = VLOAD(j, sums + (m + i) * NR); }                                      \
  TILE_RUN(acc, V, weights, 1, width, panel, NR, steps, AHEAD)                                                \
  if (c0 + channels < in_channels) { FOR_TILE(V) VSTORE(acc[i][j], j, sums + (m + i) * NR); }          \
  else if (run && lanes == V * VW && m + MR <= out_channels) {                                         \
    if (added) { FOR_TILE(V) acc[i][j] += RESIDUAL_VECTOR(i, j); }                                     \
    CHOOSE(STORE_TILE, V)                                                                              \
  } else {                                                                                             \
    T edge[MR * V * VW];                                                                               \
    FOR_TILE(V) VSTORE(acc[i][j], i * V + j, edge);                                                    \
    PLAIN_LOOP for (int i = 0; i < MR && m + i < out_channels; i++)                                               \
      PLAIN_LOOP for (int j = 0; j < V; j++) {                                                                    \
        VEC v = VLOAD(i * V + j, edge);                                                                \
        if (run && (j + 1) * VW <= lanes) {                                                            \
          if (added) v += RESIDUAL_VECTOR(i, j);                                                       \
          v += BIAS_OF(i);                                                                             \
          CHOOSE(REPLACE, v)                                                                           \
          VSTORE(v, j, y + (m + i) * ys.s1 + first);                                                   \
        } else STORE_LANES                                                                             \
      }                                                                                                \
  }                                                                                                    \
}

#define STORE_LANES {                                                                                  \
  const int some = clamp(lanes - j * VW, 0, VW);                                                            \
  T lane[VW];                                                                                          \
  if (added) {                                                                                         \
    VSTORE((VEC)(0), 0, lane);                                                                         \
    PLAIN_LOOP for (int l = 0; l < some; l++) {                                                        \
      const int p = first + j * VW + l, oh = p / OW;                                                   \
      lane[l] = r[(m + i) * rs.s1 + oh * rs.s3 + (p - oh * OW) * rs.s4];                               \
    }                                                                                                  \
    v += VLOAD(0, lane);                                                                               \
  }                                                                                                    \
  v += BIAS_OF(i);                                                                                     \
  CHOOSE(REPLACE, v)                                                                                   \
  VSTORE(v, 0, lane);                                                                                  \
  __global T *to = y + (m + i) * ys.s1;                                                                \
  if (run) PLAIN_LOOP for (int l = 0; l < some; l++) to[first + j * VW + l] = lane[l];                            \
  else PLAIN_LOOP for (int l = 0; l < some; l++) {                                                                \
    const int p = first + j * VW + l, oh = p / OW;                                                     \
    to[oh * ys.s3 + (p - oh * OW) * ys.s4] = lane[l];                                                  \
  }                                                                                                    \
}

#define SOON 8  // channels from the one that is copied to the one that is fetched into cache meanwhile

#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int, groups) V(int, in_channels) V(int, out_channels)            \
  V(int8, in) V(int8, out) V(int8, size) V(int8, stride) V(int8, dilation) V(int8, pad) V(int, unit) V(int, wide) V(int, turn)         \
  V(int, narrow) BIAS_NUMBERS(V) V(int, r_off) V(int8, rs) V(int, added) LATE_NUMBERS(V)

struct PACKED_ FORM(conv_panel_numbers) { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void FORM(conv_panel)(__global const T *restrict x, __global const T *restrict w, __global T *restrict y, __local T *restrict panel,
                               __local T *restrict strip, __local T *restrict sums BIAS_ARG, __global const T *restrict r,
                               struct FORM(conv_panel_numbers) numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int H = in.s1, W = in.s2, OH = out.s1, OW = out.s2, KH = size.s1, KW = size.s2, x_row = xs.s3;
  const int SH = stride.s1, SW = stride.s2, DH = dilation.s1, DW = dilation.s2, PT = pad.s1, PL = pad.s2;
  const int pixels = OH * OW, depth = in_channels * KH * KW;
  const int first = get_global_id(0) * NR, lanes = min(NR, pixels - first), vectors = (lanes + VW - 1) / VW;
  const int batch = get_global_id(1) / groups, group = get_global_id(1) % groups;
  const int top = first / OW, bottom = (first + lanes - 1) / OW;
  const int left = top == bottom ? first - top * OW : 0, right = top == bottom ? left + lanes : OW;
  const int column = left * SW - PL, row = top * SH - PT;
  const int pitch = ((right - left - 1) * SW + (KW - 1) * DW) / SW + 1, phase = pitch + VW, strip_row = phase * SW;
  const int strip_rows = (bottom - top) * SH + (KH - 1) * DH + 1, tall = (KH - 1) * DH + 1;
  const int direct = top == bottom && SW == 1 && column >= 0 && column + lanes - 1 + (KW - 1) * DW < W;
  const int held = (in_channels - 1) * xs.s1 + (H - 1) * x_row + W;  // elements from a group's first to its last

  x += x_off + batch * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * ((out_channels + MR - 1) / MR * MR) * depth;
  y += y_off + batch * ys.s0 + group * out_channels * ys.s1;
#ifdef BIAS
  __global const T *shift = bias + bias_off + group * out_channels * bias_stride;
#endif
  r += r_off + batch * rs.s0 + group * out_channels * rs.s1;
  const int run = ys.s4 == 1 && (ys.s3 == OW || OH == 1) && rs.s4 == 1 && (rs.s3 == OW || OH == 1);  // one run of memory
  PLAIN_LOOP for (int c0 = 0; c0 < in_channels; c0 += unit) {
    const int channels = min(unit, in_channels - c0), steps = channels * KH * KW;
    __local T *to = panel;
    int c = 0;
    if (direct && KH * KW == 1 && lanes == NR && row >= 0 && row < H)
      PLAIN_LOOP for (; c < channels; c++, x += xs.s1, to += NR) {
        __global const T *from = x + row * x_row + column;
        PREFETCH(from + SOON * xs.s1);
        VEC v[NV];
        _Pragma("unroll") for (int j = 0; j < NV; j++) v[j] = VLOAD(j, from);
        _Pragma("unroll") for (int j = 0; j < NV; j++) VSTORE(v[j], j, to);
      }
    PLAIN_LOOP for (; c < channels; c++, x += xs.s1) {
      if (direct) {
        PLAIN_LOOP for (int kh = 0; kh < KH; kh++) {
          const int h = row + kh * DH;
          if (h < 0 || h >= H) {
            PLAIN_LOOP for (int kw = 0; kw < KW; kw++, to += NR) fill_run(to, 0, lanes, 0);
            continue;
          }
          PLAIN_LOOP for (int kw = 0; kw < KW; kw++, to += NR) {
            __global const T *from = x + h * x_row + column + kw * DW;
            int l = 0;
            for (; l + VW <= lanes; l += VW) VSTORE(VLOAD(0, from + l), 0, to + l);
            if (l < lanes) fill_run(to, l, lanes, 0);
            PLAIN_LOOP for (; l < lanes; l++) to[l] = from[l];
          }
        }
        continue;
      }
      PLAIN_LOOP for (int s = 0, part = 0; s < strip_rows; s++, part = part + 1 == SH ? 0 : part + 1) {
        const int h = row + s;
        __local T *cells = strip + s * strip_row;
        if (part >= tall) continue;  // no tap meets this row
        if (h >= 0 && h < H) fill_row(x + h * x_row, W, held - (c0 + c) * xs.s1 - h * x_row, column, SW, pitch, phase, 0, cells);
        else PLAIN_LOOP for (int p = 0; p < SW; p++) fill_run(cells + p * phase, 0, pitch, 0);
      }
      PLAIN_LOOP for (int kh = 0; kh < KH; kh++) {
        __local const T *tap = strip + kh * DH * strip_row + first - top * OW - left;
        PLAIN_LOOP for (int kw = 0, part = 0, cell = 0; kw < KW; kw++, to += NR) {
          __local const T *from = tap + part * phase + cell;
          int begin = 0, end = min(lanes, (top + 1) * OW - first);
          PLAIN_LOOP for (int o = top; o <= bottom; o++, from += SH * strip_row - OW) {
            PLAIN_LOOP for (int l = begin; l < end; l += VW) VSTORE(VLOAD(0, from + l), 0, to + l);  // spills into the step written next
            begin = end, end = min(lanes, end + OW);
          }
          PLAIN_LOOP for (part += DW; part >= SW; part -= SW) cell++;
        }
      }
    }
    PLAIN_LOOP for (int m = 0; m < out_channels; m += MR) {
      const int width = m < turn ? wide : narrow, start = m < turn ? m / wide * wide : turn + (m - turn) / narrow * narrow;
      __global const T *weights = w + start * depth + c0 * KH * KW * width + m - start;
      EACH_WIDTH(vectors, TILE)
    }
  }
  DONE_IN_STEP
}
