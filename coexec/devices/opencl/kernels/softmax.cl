// Softmax, log-softmax (LOG) and hardmax of lines of n elements at strides x_step and y_step. A is the type of the arithmetic.
// V > 1 needs steps of 1 and GROUP 1. KEEP: y holds the exponentials meanwhile, since it rounds no number.

#define LARGER_(a, b) (((a) > (b)) | ((a) != (a)) ? (a) : (b))
#define SUM_(a, b) ((a) + (b))
#if V > 1
#define AV CAT(A, V)
#define LOADV_(p) LOADS(T, V, p)
#define STOREV_(v, p) STORES(T, V, p, v)
#endif

#define NUMBERS(V) V(int, x_off) V(int8, x_s) V(int, x_step) V(int, y_off) V(int8, y_s) V(int, y_step) V(int8, shape) V(int, n) V(int, lines)

IN_A_STRUCT(softmax_numbers)

kernel void softmax(global const T *restrict x, global T *restrict y ALL_NUMBERS(softmax_numbers))
{
    BEGIN_IN_STEP
    SHARED(A, shared_)
#ifndef IN_ONE
    if (LINE >= lines)
        return;
#endif
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
        const A v = LOAD(T, x, i * x_step);
        top = LARGER_(v, top);
    }
    ACROSS(A, shared_, top, LARGER_)

    i = LANE;
#if V > 1
    for (; i < whole; i += V) {
        const AV e = exp(LOADV_(x + i) - (AV)(top));
        sums += e;
#ifdef KEEP
        STOREV_(e, y + i);
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
        const A e = exp(LOAD(T, x, i * x_step) - top);
        sum += e;
#ifdef KEEP
        STORE(T, y, i * y_step, e);
#endif
    }
    ACROSS(A, shared_, sum, SUM_)

#ifdef LOG
    const A shift = top, less = log(sum);
#define LAST_(v, w) (v) - shift - less
#define FROM_(p, q) (p)
#else
    const A scale = (A)1 / sum;
#ifdef KEEP
#define LAST_(v, w) (v) * scale
#define FROM_(p, q) (q)
#else
#define LAST_(v, w) exp((v) - (w)(top)) * scale
#define FROM_(p, q) (p)
#endif
#endif
    i = LANE;
#if V > 1
    for (; i < whole; i += V)
        STOREV_(LAST_(LOADV_(FROM_(x + i, y + i)), AV), y + i);
#endif
    for (; i < n; i += GROUP)
        STORE(T, y, i * y_step, LAST_(LOAD(T, FROM_(x + i * x_step, y + i * y_step), 0), A));
    END_IN_STEP
}

kernel void hardmax(global const T *restrict x, global T *restrict y ALL_NUMBERS(softmax_numbers))
{
    BEGIN_IN_STEP
    const int line = get_global_id(0);
#ifndef IN_ONE
    if (line >= lines)
        return;
#endif
    x += x_off + place(line, shape, x_s);
    y += y_off + place(line, shape, y_s);
    int at = 0;
    for (int i = 1; i < n; ++i)
    {
        const A v = LOAD(T, x, i * x_step), top = LOAD(T, x, at * x_step);
        if (v > top || (v != v && top == top))
            at = i;
    }
    for (int i = 0; i < n; ++i)
        STORE(T, y, i * y_step, (A)(i == at));
    END_IN_STEP
}
