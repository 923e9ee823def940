/* Preloaded: puts a delay before the first select() that would wait for an hour. Whatever signal comes meanwhile comes
 * behind Python's last look at whether there is one, and before the system call. The delay ends with a byte on stdin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/select.h>
#include <unistd.h>

int select(int n, fd_set *readable, fd_set *writable, fd_set *exceptional, struct timeval *timeout) {
    static int delayed;
    static int (*original)(int, fd_set *, fd_set *, fd_set *, struct timeval *);
    char byte;
    if (!original) original = (int (*)(int, fd_set *, fd_set *, fd_set *, struct timeval *))dlsym(RTLD_NEXT, "select");
    if (timeout && timeout->tv_sec >= 3000 && !delayed) {
        delayed = 1;
        if (write(1, "delayed\n", 8) != 8) return -1;
        while (read(0, &byte, 1) != 1) {}
    }
    return original(n, readable, writable, exceptional, timeout);
}
