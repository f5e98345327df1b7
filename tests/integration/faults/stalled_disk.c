/* A disk that does not answer: preloaded, a flush waits as long as the file that WEARSIGHT_TEST_STALL names is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_disk(void) {
  const char *stall = getenv("WEARSIGHT_TEST_STALL");
  while (stall && access(stall, F_OK) == 0) usleep(20000);
}

int fsync(int fd) {
  wait_for_disk();
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
  wait_for_disk();
  return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
