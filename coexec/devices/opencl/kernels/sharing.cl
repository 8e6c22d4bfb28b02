// What a device does while it is tried whether memory can be shared with it: see sharing.py.

// Writes every other row, as one side of a cut does.
kernel void write_odd_rows(global int *p, int width, int value) {
    int at = (int)get_global_id(0);
    int i = (2 * (at / width) + 1) * width + at % width;
    p[i] = value + i;
}

// Reads everything, as the next node does, into what lies behind it.
kernel void read_rows(global int *p, int size, int value) {
    int i = (int)get_global_id(0);
    p[size + i] = p[i] - value;
}
