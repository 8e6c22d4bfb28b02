// 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3): 36 multiplications make 16 outputs, where 144 would do it directly.
//
// One work-item owns a core and makes NR tiles of 4 x 4 outputs for every output channel, a tile a vector lane. All between the input
// and the output stays in local memory, which such devices keep in cache:
// strip (one channel's rows with padding, columns sorted by index modulo 4) -> window (6 x 6 vectors) -> freq [36][in channel][NR];
// then per MR output channels: 36 matrix products -> points [36][MR][NR] -> line (4 rows of outputs in order) -> y.
// Weights come transformed, [group][channel tile][36][in channel][MR].
//
// Where freq is too large for that, two launches: STAGE 1 leaves [batch * group][panel][36][in channel][NR] in global memory, in STAGE 2 a
// work-item makes MR output channels of every panel, so that its weights stay in cache. STAGE 0 is all at once.
//
// A residual is added where `added` is not 0; else r stands for y, and is not read.

#if STAGE == 0
#define FREQ_SPACE __local
#else
#define FREQ_SPACE __global
#endif

// o = B' d: six values a stride of `step` vectors apart
#define TRANSFORM_IN(d0, d1, d2, d3, d4, d5, o)      \
  o[0] = 4 * d0 - 5 * d2 + d4;                       \
  o[1] = (d4 - 4 * d2) + (d3 - 4 * d1);              \
  o[2] = (d4 - 4 * d2) - (d3 - 4 * d1);              \
  o[3] = (d4 - d2) + 2 * (d3 - d1);                  \
  o[4] = (d4 - d2) - 2 * (d3 - d1);                  \
  o[5] = 4 * d1 - 5 * d3 + d5;

// o = A' m
#define TRANSFORM_OUT(m0, m1, m2, m3, m4, m5, o)     \
  o[0] = m0 + (m1 + m2) + (m3 + m4);                 \
  o[1] = (m1 - m2) + 2 * (m3 - m4);                  \
  o[2] = (m1 + m2) + 4 * (m3 + m4);                  \
  o[3] = (m1 - m2) + 8 * (m3 - m4) + m5;

#define REPLACE(o, A) _Pragma("unroll") for (int k = 0; k < 4; k++) o[k] = A(VEC, o[k]);
#define REPLACE_ONE(v, A) v = A(T, v);

#define PRODUCTS(V) {                                                                       \
  VEC acc[MR][V];                                                                           \
  TILE_CLEAR(acc, V)                                                                        \
  TILE_RUN(acc, V, weights, 1, MR, freq + point * in_channels * NR, NR, in_channels, AHEAD)        \
  FOR_TILE(V) VSTORE(acc[i][j], j, points + (point * MR + i) * NR);                         \
}

#if STAGE == 0
#define FREQ_NUMBERS(V)
#else
#define FREQ_NUMBERS(V) V(int, freqs_off)
#endif
#define NUMBERS(V)                                                                                                                     \
  V(int, x_off) V(int8, xs) V(int, w_off) V(int, y_off) V(int8, ys) V(int, groups) V(int, in_channels) V(int, out_channels)            \
  V(int8, in) V(int8, out) V(int8, pad) FREQ_NUMBERS(V) BIAS_NUMBERS(V) V(int, r_off) V(int8, rs) V(int, added) LATE_NUMBERS(V)

struct PACKED_ winograd_numbers { NUMBERS(FIELD_) };

__attribute__((reqd_work_group_size(1, 1, 1)))
__kernel void conv_winograd(__global const T *restrict x, __global const T *restrict w, __global T *restrict y,
#if STAGE == 0
                            __local T *restrict freq,
#else
                            __global T *restrict freqs,
#endif
                            __local T *restrict points, __local T *restrict line, __local T *restrict strip BIAS_ARG,
                            __global const T *restrict r, struct winograd_numbers numbers IN_STEP_ARGS) {
  NUMBERS(OWN_)
  IN_STEP
  const int H = in.s1, W = in.s2, OH = out.s1, OW = out.s2;
  const int across = (OW + 3) / 4, tiles = across * ((OH + 3) / 4);
  const int batch = get_global_id(1) / groups, group = get_global_id(1) % groups;
  const int panels = (tiles + NR - 1) / NR, channel_tiles = (out_channels + MR - 1) / MR;
#if STAGE == 2
  const int panel_begin = 0, panel_end = panels, tile_begin = get_global_id(0), tile_end = tile_begin + 1;
#else
  const int panel_begin = get_global_id(0), panel_end = panel_begin + 1, tile_begin = 0, tile_end = channel_tiles;
#endif
  x += x_off + batch * xs.s0 + group * in_channels * xs.s1;
  w += w_off + group * channel_tiles * MR * 36 * in_channels;
  y += y_off + batch * ys.s0 + group * out_channels * ys.s1;
  r += r_off + batch * rs.s0 + group * out_channels * rs.s1;
  PLAIN_LOOP for (int panel = panel_begin; panel < panel_end; panel++) {
  const int first = panel * NR, lanes = min(NR, tiles - first), vectors = (lanes + VW - 1) / VW;
  const int top = first / across, bottom = (first + lanes - 1) / across;
  const int left = top == bottom ? first - top * across : 0, right = top == bottom ? left + lanes : across;
  const int phase = right - left + 1 + VW, strip_row = 4 * phase, strip_rows = (bottom - top) * 4 + 6;
  const int column = left * 4 - pad.s2, row = top * 4 - pad.s1;
  // Groups of four columns that lie wholly inside the input, and of them runs of four groups.
  const int inner = column >= 0 ? 0 : (3 - column) / 4, used = right - left + 1;
  const int inner_end = clamp((W - column) / 4, inner, max(used, inner));
#if STAGE != 0
  __global T *freq = freqs + freqs_off + (get_global_id(1) * panels + panel) * 36 * in_channels * NR;
#endif
#if STAGE != 2
  PLAIN_LOOP for (int c = 0; c < in_channels; c++, x += xs.s1) {
    PLAIN_LOOP for (int s = 0; s < strip_rows; s++) {
      const int h = row + s;
      __local T *cells = strip + s * strip_row;
      if (h < 0 || h >= H) {
        PLAIN_LOOP for (int p = 0; p < 4; p++)
          PLAIN_LOOP for (int i = 0; i < used; i += VW) VSTORE((VEC)(0), 0, cells + p * phase + i);
        continue;
      }
      __global const T *from = x + h * xs.s3 + column;
      int i = 0;
      PLAIN_LOOP for (; i < min(inner, used); i++)
        PLAIN_LOOP for (int p = 0; p < 4; p++)
          cells[p * phase + i] = column + 4 * i + p >= 0 && column + 4 * i + p < W ? from[4 * i + p] : 0;
      for (; i + 4 <= inner_end; i += 4) {
        const CAT(T, 16) v = vload16(0, from + 4 * i);
        vstore4(v.s048c, 0, cells + i);
        vstore4(v.s159d, 0, cells + phase + i);
        vstore4(v.s26ae, 0, cells + 2 * phase + i);
        vstore4(v.s37bf, 0, cells + 3 * phase + i);
      }
      PLAIN_LOOP for (; i < used; i++)
        PLAIN_LOOP for (int p = 0; p < 4; p++) cells[p * phase + i] = column + 4 * i + p < W ? from[4 * i + p] : 0;
    }
    __local T *window = points, *to = window;  // free until the products are made
    PLAIN_LOOP for (int kh = 0; kh < 6; kh++)
      PLAIN_LOOP for (int kw = 0; kw < 6; kw++, to += NR) {
        __local const T *tap = strip + kh * strip_row + kw % 4 * phase + kw / 4;
        PLAIN_LOOP for (int o = top; o <= bottom; o++, tap += 4 * strip_row) {
          const int begin = max(0, o * across - first), end = min(lanes, (o + 1) * across - first);
          __local const T *at = tap + first + begin - o * across - left;
          PLAIN_LOOP for (int l = begin; l < end; l += VW, at += VW) VSTORE(VLOAD(0, at), 0, to + l);  // spills into the next
        }
      }
    PLAIN_LOOP for (int j = 0; j < vectors; j++) {
      VEC half_way[6][6], o[6];
      _Pragma("unroll") for (int k = 0; k < 6; k++) {
        __local const T *d = window + k * NR + j * VW;
        TRANSFORM_IN(VLOAD(0, d), VLOAD(0, d + 6 * NR), VLOAD(0, d + 12 * NR), VLOAD(0, d + 18 * NR), VLOAD(0, d + 24 * NR), VLOAD(0,
            d + 30 * NR), o)
        _Pragma("unroll") for (int i = 0; i < 6; i++) half_way[i][k] = o[i];
      }
      _Pragma("unroll") for (int i = 0; i < 6; i++) {
        TRANSFORM_IN(half_way[i][0], half_way[i][1], half_way[i][2], half_way[i][3], half_way[i][4], half_way[i][5], o)
        _Pragma("unroll") for (int k = 0; k < 6; k++) VSTORE(o[k], j, freq + ((i * 6 + k) * in_channels + c) * NR);
      }
    }
  }
#endif
#if STAGE != 1
  __global const T *weights = w + tile_begin * 36 * MR * in_channels;
  PLAIN_LOOP for (int tile = tile_begin; tile < tile_end; tile++) {
    const int m = tile * MR;
    PLAIN_LOOP for (int point = 0; point < 36; point++, weights += MR * in_channels) {
      EACH_WIDTH(vectors, PRODUCTS)
    }
    PLAIN_LOOP for (int i = 0; i < MR && m + i < out_channels; i++) {
#ifdef BIAS
      const VEC shift = (VEC)(bias[bias_off + (group * out_channels + m + i) * bias_stride]);
#else
      const VEC shift = (VEC)(0);
#endif
      PLAIN_LOOP for (int j = 0; j < vectors; j++) {
        VEC half_way[4][6], o[4];
        _Pragma("unroll") for (int k = 0; k < 6; k++) {
          __local const T *d = points + (k * MR + i) * NR + j * VW;
          const int step = 6 * MR * NR;
          TRANSFORM_OUT(VLOAD(0, d), VLOAD(0, d + step), VLOAD(0, d + 2 * step), VLOAD(0, d + 3 * step), VLOAD(0, d + 4 * step), VLOAD(0,
              d + 5 * step), o)
          _Pragma("unroll") for (int n = 0; n < 4; n++) half_way[n][k] = o[n];
        }
        _Pragma("unroll") for (int n = 0; n < 4; n++) {
          TRANSFORM_OUT(half_way[n][0], half_way[n][1], half_way[n][2], half_way[n][3], half_way[n][4], half_way[n][5], o)
          T lane[4][VW];
          _Pragma("unroll") for (int k = 0; k < 4; k++) o[k] += shift;
          if (!added) { CHOOSE(REPLACE, o) }
          _Pragma("unroll") for (int k = 0; k < 4; k++) VSTORE(o[k], 0, lane[k]);
          _Pragma("unroll") for (int q = 0; q < VW / 4; q++) {
            const CAT(T, 4) a = vload4(q, lane[0]), b = vload4(q, lane[1]), c = vload4(q, lane[2]), d = vload4(q, lane[3]);
            vstore16((CAT(T, 16))(a.s0, b.s0, c.s0, d.s0, a.s1, b.s1, c.s1, d.s1, a.s2, b.s2, c.s2, d.s2, a.s3, b.s3, c.s3, d.s3), q,
                     line + (n * NR + j * VW) * 4);
          }
        }
      }
      PLAIN_LOOP for (int o = top; o <= bottom; o++) {
        const int begin = max(0, o * across - first), end = min(lanes, (o + 1) * across - first);
        const int from_column = (first + begin - o * across) * 4, count = min((end - begin) * 4, OW - from_column);
        PLAIN_LOOP for (int n = 0; n < min(4, OH - o * 4); n++) {
          __local const T *from = line + (n * NR + begin) * 4;
          __global T *to = y + (m + i) * ys.s1 + (o * 4 + n) * ys.s3 + from_column;
          int k = 0;
          if (added) {
            __global const T *more = r + (m + i) * rs.s1 + (o * 4 + n) * rs.s3 + from_column;
            PLAIN_LOOP for (; k < count; k++) {
              T v = from[k] + more[k];
              CHOOSE(REPLACE_ONE, v)
              to[k] = v;
            }
          }
          PLAIN_LOOP for (; k + VW <= count; k += VW) VSTORE(VLOAD(0, from + k), 0, to + k);
          PLAIN_LOOP for (; k + 4 <= count; k += 4) vstore4(vload4(0, from + k), 0, to + k);
          PLAIN_LOOP for (; k < count; k++) to[k] = from[k];
        }
      }
    }
  }
#endif
  }
  DONE_IN_STEP
}
