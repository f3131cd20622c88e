/* The process of a pod's sandbox: waits, reaps zombies of its process namespace, and exits on SIGINT and SIGTERM. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int signal) {
    (void)signal;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
}

static void leave(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    signal(SIGCHLD, reap);
    signal(SIGINT, leave);
    signal(SIGTERM, leave);
    for (;;) {
        pause();
    }
}
