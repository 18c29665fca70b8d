/*
 * Lets fsync(2) and fdatasync(2) fail with EIO while the file exists that REALCHAT_FSYNC_ERROR names.
 * `perf chaos` compiles it and has scripts/lib/run-postgres load it into PostgreSQL (LD_PRELOAD).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Kept from the start: a server rewrites its environment. */
static char trigger[4096];

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("REALCHAT_FSYNC_ERROR");
    if (path != NULL && strlen(path) < sizeof trigger)
        strcpy(trigger, path);
}

static int fails(void)
{
    int saved = errno;
    int there = trigger[0] != '\0' && access(trigger, F_OK) == 0;
    errno = there ? EIO : saved;
    return there;
}

int fsync(int descriptor)
{
    return fails() ? -1 : (int)syscall(SYS_fsync, descriptor);
}

int fdatasync(int descriptor)
{
    return fails() ? -1 : (int)syscall(SYS_fdatasync, descriptor);
}
