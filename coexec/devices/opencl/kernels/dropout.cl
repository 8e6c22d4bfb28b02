// Dropout in training: the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded by init_genrand(seed), of whose numbers two
// make a fraction of 53 bits: (a >> 5) * 2^26 + (b >> 6). An element is kept where its fraction is at least the ratio, all in integers.
// One work-group of GROUP work-items (at most 227, how far apart words of the state are that depend on each other).

#define WORDS 624
#define MIDDLE 397

uint tempered(uint v)
{
    v ^= v >> 11;
    v ^= (v << 7) & 0x9d2c5680u;
    v ^= (v << 15) & 0xefc60000u;
    return v ^ (v >> 18);
}

__attribute__((reqd_work_group_size(GROUP, 1, 1)))
kernel void dropout(global const T *restrict x, int x_off, int8 x_s, global T *restrict y, int y_off, int8 y_s,
#ifdef MASK
                    global uchar *restrict mask, int mask_off, int8 mask_s,
#endif
                    int8 shape, int n, uint seed, global const uchar *restrict training, int training_off
#ifdef RATIO
                    , global const RATIO *restrict ratios, int ratios_off
#endif
                    )
{
    local uint state[WORDS];
    const int lane = get_local_id(0);
#ifdef RATIO
    const R ratio = LOAD(RATIO, ratios, ratios_off);
    const A scale = (A)((R)1 / ((R)1 - ratio));
    const ulong least = convert_ulong_sat(ceil(ldexp(ratio, 53)));
#else
    const A scale = 2;
    const ulong least = 1ul << 52;
#endif
    const int on = training[training_off] != 0 && least != 0;
    if (lane == 0) {
        uint word = seed;
        for (int i = 0; i < WORDS; ++i) {
            state[i] = word;
            word = 1812433253u * (word ^ (word >> 30)) + i + 1;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int first = 0; first < n; first += WORDS / 2) {
        for (int start = 0; start < WORDS && on; start += GROUP) {
            const int i = start + lane, here = min(i, WORDS - 1);
            const uint both = (state[here] & 0x80000000u) | (state[(here + 1) % WORDS] & 0x7fffffffu);
            const uint next = state[(here + MIDDLE) % WORDS] ^ (both >> 1) ^ (both & 1 ? 0x9908b0dfu : 0u);
            barrier(CLK_LOCAL_MEM_FENCE);
            if (i < WORDS)
                state[i] = next;
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        for (int k = lane; k < WORDS / 2 && first + k < n; k += GROUP) {
            const ulong drawn = ((ulong)(tempered(state[2 * k]) >> 5) << 26) + (tempered(state[2 * k + 1]) >> 6);
            const int kept = !on || drawn >= least;
            const A v = LOAD(T, x, x_off + place(first + k, shape, x_s));
            STORE(T, y, y_off + place(first + k, shape, y_s), on ? (kept ? v : v * (A)0) * scale : v);
#ifdef MASK
            mask[mask_off + place(first + k, shape, mask_s)] = kept;
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}
