// Softmax, log-softmax (LOG) and hardmax of lines of n elements at strides x_step and y_step. A is the type of the arithmetic.
// V > 1 needs steps of 1 and GROUP 1.

#define LARGER_(a, b) (((a) > (b)) | ((a) != (a)) ? (a) : (b))
#define SUM_(a, b) ((a) + (b))
#if V > 1
#define AV CAT(A, V)
#define LOADV_(p) CAT(convert_, AV)(CAT(vload, V)(0, p))
#endif

kernel void softmax(global const T *restrict x, int x_off, int8 x_s, int x_step, global T *restrict y, int y_off, int8 y_s, int y_step,
                    int8 shape, int n, int lines)
{
    SHARED(A, shared_)
    if (LINE >= lines)
        return;
    x += x_off + place(LINE, shape, x_s);
    y += y_off + place(LINE, shape, y_s);
    A top = -INFINITY, sum = 0;
    int i = LANE;
#if V > 1
    AV tops = (AV)(-INFINITY), sums = (AV)(0);
    for (; i + V <= n; i += V) {
        const AV v = LOADV_(x + i);
        tops = LARGER_(v, tops);
    }
    const int whole = i;
    {
        A each[V];
        CAT(vstore, V)(tops, 0, each);
        for (int k = 0; k < V; ++k)
            top = LARGER_(each[k], top);
    }
#endif
    for (; i < n; i += GROUP) {
        const A v = CAT(convert_, A)(x[i * x_step]);
        top = LARGER_(v, top);
    }
    ACROSS(A, shared_, top, LARGER_)

    i = LANE;
#if V > 1
    for (; i < whole; i += V) {
        const AV e = exp(LOADV_(x + i) - (AV)(top));
        sums += e;
#ifndef LOG
        CAT(vstore, V)(CAT(convert_, CAT(T, V))(e), 0, y + i);
#endif
    }
    {
        A each[V];
        CAT(vstore, V)(sums, 0, each);
        for (int k = 0; k < V; ++k)
            sum += each[k];
    }
#endif
    for (; i < n; i += GROUP) {
        const A e = exp(CAT(convert_, A)(x[i * x_step]) - top);
        sum += e;
#ifndef LOG
        y[i * y_step] = CAT(convert_, T)(e);
#endif
    }
    ACROSS(A, shared_, sum, SUM_)

#ifdef LOG
    const A shift = top, less = log(sum);
#define LAST_(v, w) (v) - shift - less
#define FROM_(p, q) (p)
#else
    const A scale = (A)1 / sum;
#define LAST_(v, w) (v) * scale
#define FROM_(p, q) (q)
#endif
    i = LANE;
#if V > 1
    for (; i < whole; i += V)
        CAT(vstore, V)(CAT(convert_, CAT(T, V))(LAST_(LOADV_(FROM_(x + i, y + i)), AV)), 0, y + i);
#endif
    for (; i < n; i += GROUP)
        y[i * y_step] = CAT(convert_, T)(LAST_(CAT(convert_, A)(*(FROM_(x + i * x_step, y + i * y_step))), A));
}

kernel void hardmax(global const T *restrict x, int x_off, int8 x_s, int x_step, global T *restrict y, int y_off, int8 y_s, int y_step,
                    int8 shape, int n, int lines)
{
    const int line = get_global_id(0);
    if (line >= lines)
        return;
    x += x_off + place(line, shape, x_s);
    y += y_off + place(line, shape, y_s);
    int at = 0;
    for (int i = 1; i < n; ++i)
        if (x[i * x_step] > x[at * x_step] || (x[i * x_step] != x[i * x_step] && x[at * x_step] == x[at * x_step]))
            at = i;
    for (int i = 0; i < n; ++i)
        y[i * y_step] = (T)(i == at);
}
