// A (batch, channel, height, width) region as an image: a pixel holds four channels, channel blocks stand side by side, batches one below
// another. A place is (x0, y0, width, rows): channel block b, row y, column x of batch n is the pixel (b * width + x0 + x, n * rows + y0 + y).
// Lanes beyond the last channel hold finite numbers that nobody uses: weights are 0 there.

constant sampler_t TEXEL = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
#define PIXEL_AT(p, n, b, y, x) (int2)((b) * (p).s2 + (p).s0 + (x), (n) * (p).s3 + (p).s1 + (y))
#define READ(image, p, n, b, y, x) read_imagef(image, TEXEL, PIXEL_AT(p, n, b, y, x))
#define WRITE(image, p, n, b, y, x, v) write_imagef(image, PIXEL_AT(p, n, b, y, x), v)

// Every kernel: size is (width, height, channel blocks, batches) of what it writes; work-items are (column, row, block and batch).
#define PLACE_OF_ITEM(PER) \
    const int x0 = get_global_id(0) * (PER), y0 = get_global_id(1), b = get_global_id(2) % size.s2, n = get_global_id(2) / size.s2; \
    if (x0 >= size.s0 || y0 >= size.s1) \
        return;

#ifdef RESIDUAL
#define RESIDUAL_PARAMS , read_only image2d_t r, int4 r_at
#define PLUS_RESIDUAL(v, x) ((v) + READ(r, r_at, n, b, y0, x))
#else
#define RESIDUAL_PARAMS
#define PLUS_RESIDUAL(v, x) (v)
#endif

#if defined(PACK)

kernel void image_pack(global const float *x, int x_off, int8 s, write_only image2d_t y, int4 y_at, int4 size, int channels)
{
    PLACE_OF_ITEM(1)
    global const float *from = x + x_off + n * s.s0 + (b * 4) * s.s1 + y0 * s.s2 + x0 * s.s3;
    const int left = channels - b * 4;
    WRITE(y, y_at, n, b, y0, x0, (float4)(from[0], left > 1 ? from[s.s1] : 0, left > 2 ? from[2 * s.s1] : 0, left > 3 ? from[3 * s.s1] : 0));
}

#elif defined(UNPACK)

kernel void image_unpack(read_only image2d_t x, int4 x_at, global float *y, int y_off, int8 s, int4 size, int channels)
{
    PLACE_OF_ITEM(1)
    const float4 v = READ(x, x_at, n, b, y0, x0);
    global float *to = y + y_off + n * s.s0 + (b * 4) * s.s1 + y0 * s.s2 + x0 * s.s3;
    const int left = channels - b * 4;
    to[0] = v.s0;
    if (left > 1) to[s.s1] = v.s1;
    if (left > 2) to[2 * s.s1] = v.s2;
    if (left > 3) to[3 * s.s1] = v.s3;
}

#elif defined(CONV)

// Weights: [block][in block][kh][kw][lane of the input], a float4 of outputs each; depthwise [block][kh][kw], a float4 of channels each.
// in: height and width of what the piece reads, its channel blocks; form: (kh, kw, stride h, w, dilation h, w, pad h, w).
kernel void image_conv(read_only image2d_t x, int4 x_at, write_only image2d_t y, int4 y_at, global const float4 *w, int w_off,
                       global const float4 *bias, int bias_off, int4 size, int4 in, int8 form RESIDUAL_PARAMS)
{
    PLACE_OF_ITEM(PER)
    float4 sums[PER];
    for (int p = 0; p < PER; ++p)
        sums[p] = bias[bias_off + b];
#ifdef DEPTHWISE
    const int first = b, last = b + 1;
    global const float4 *f = w + w_off + b * form.s0 * form.s1;
#else
    const int first = 0, last = in.s2;
    global const float4 *f = w + w_off + b * in.s2 * form.s0 * form.s1 * 4;
#endif
    for (int c = first; c < last; ++c)
        for (int i = 0; i < form.s0; ++i) {
            const int row = y0 * form.s2 - form.s6 + i * form.s4;
            for (int j = 0; j < form.s1; ++j) {
#ifdef DEPTHWISE
                const float4 f0 = *f++;
#else
                const float4 f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
                f += 4;
#endif
                if (row < 0 || row >= in.s0)
                    continue;
                for (int p = 0; p < PER; ++p) {
                    const int column = (x0 + p) * form.s3 - form.s7 + j * form.s5;
                    if (column < 0 || column >= in.s1)
                        continue;
                    const float4 v = READ(x, x_at, n, c, row, column);
#ifdef DEPTHWISE
                    sums[p] = FMA(v, f0, sums[p]);
#else
                    sums[p] = FMA((float4)(v.s0), f0, FMA((float4)(v.s1), f1, FMA((float4)(v.s2), f2, FMA((float4)(v.s3), f3, sums[p]))));
#endif
                }
            }
        }
    for (int p = 0; p < PER; ++p)
        if (x0 + p < size.s0) {
            const float4 v = PLUS_RESIDUAL(sums[p], x0 + p);
            WRITE(y, y_at, n, b, y0, x0 + p, ACTIVATE(float4, v));
        }
}

#elif defined(POOL)

kernel void image_pool(read_only image2d_t x, int4 x_at, write_only image2d_t y, int4 y_at, int4 size, int4 in, int8 form
#ifndef LARGEST
    , global const float *high, int high_off, global const float *wide, int wide_off
#endif
    RESIDUAL_PARAMS)
{
    PLACE_OF_ITEM(1)
#ifdef LARGEST
    float4 v = (float4)(-FLT_MAX);
#else
    float4 v = (float4)(0);
#endif
    for (int i = 0; i < form.s0; ++i) {
        const int row = y0 * form.s2 - form.s6 + i * form.s4;
        for (int j = 0; j < form.s1; ++j) {
            const int column = x0 * form.s3 - form.s7 + j * form.s5;
            if (row < 0 || row >= in.s0 || column < 0 || column >= in.s1)
                continue;
            const float4 found = READ(x, x_at, n, b, row, column);
#ifdef LARGEST
            v = isnan(found) | (found > v) ? found : v;
#else
            v += found;
#endif
        }
    }
#ifndef LARGEST
    v /= high[high_off + y0] * wide[wide_off + x0];
#endif
    v = PLUS_RESIDUAL(v, x0);
    WRITE(y, y_at, n, b, y0, x0, ACTIVATE(float4, v));
}

#else

kernel void image_elementwise(read_only image2d_t x, int4 x_at,
#ifdef BINARY
    read_only image2d_t z, int4 z_at,
#endif
    write_only image2d_t y, int4 y_at, int4 size RESIDUAL_PARAMS)
{
    PLACE_OF_ITEM(1)
    const float4 a0 = READ(x, x_at, n, b, y0, x0);
#ifdef BINARY
    const float4 a1 = READ(z, z_at, n, b, y0, x0);
#endif
    const float4 made = EXPR(float4, int4);
    const float4 v = PLUS_RESIDUAL(made, x0);
    WRITE(y, y_at, n, b, y0, x0, ACTIVATE(float4, v));
}

#endif
