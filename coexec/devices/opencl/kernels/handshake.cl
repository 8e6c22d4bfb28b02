// Orders the device's queue and the host without the driver: says in one word how far the queue has come, waits on another for the host.
// words[0] is the host's, words[HEARD] the device's. `limit` above 0 gives up after that many looks, so that a driver where the
// host's stores never arrive is found out, not hung on.

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void handshake(volatile global int *words, int signal, int target, uint limit) {
    if (signal) {
        IN_ORDER
        atomic_xchg(words + HEARD, signal);
    }
    if (target) {
        uint looks = 0;
        while (LOOK(words) < target) {
            if (limit && ++looks >= limit) {
                atomic_xchg(words + HEARD, -1);
                return;
            }
        }
        IN_ORDER
    }
}
