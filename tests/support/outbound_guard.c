/* Preloaded into every process of a test: a connection or datagram to any other machine, and a name that would have to be
 * looked up, is written to $OUTBOUND_LOG and refused. It sits below Python, Rust and C++ libraries alike. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *where) {
    const char *place = getenv("OUTBOUND_LOG");
    char line[512];
    int file = place ? open(place, O_WRONLY | O_APPEND | O_CREAT, 0644) : -1;
    if (file < 0) return;
    int length = snprintf(line, sizeof line, "%s %s by %d\n", what, where ? where : "?", (int)getpid());
    if (write(file, line, (size_t)length) != length) abort();
    close(file);
}

/* Whether an address is this machine's; others are written to `text`. */
static int local(const struct sockaddr *address, char *text, socklen_t size) {
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &four->sin_addr, text, size);
        return (ntohl(four->sin_addr.s_addr) >> 24) == 127 || four->sin_addr.s_addr == 0;
    }
    if (address->sa_family == AF_INET6) {
        const struct in6_addr *six = &((const struct sockaddr_in6 *)address)->sin6_addr;
        inet_ntop(AF_INET6, six, text, size);
        return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
    }
    return 1;
}

int connect(int descriptor, const struct sockaddr *address, socklen_t length) {
    char text[INET6_ADDRSTRLEN] = "";
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (!local(address, text, sizeof text)) {
        note("connect", text);
        errno = ECONNREFUSED;
        return -1;
    }
    return real(descriptor, address, length);
}

ssize_t sendto(int descriptor, const void *content, size_t size, int flags, const struct sockaddr *address, socklen_t length) {
    char text[INET6_ADDRSTRLEN] = "";
    ssize_t (*real)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    if (address && !local(address, text, sizeof text)) {
        note("sendto", text);
        errno = ECONNREFUSED;
        return -1;
    }
    return real(descriptor, content, size, flags, address, length);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    char text[INET6_ADDRSTRLEN] = "";
    ssize_t (*real)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    if (message->msg_name && !local(message->msg_name, text, sizeof text)) {
        note("sendmsg", text);
        errno = ECONNREFUSED;
        return -1;
    }
    return real(descriptor, message, flags);
}

int sendmmsg(int descriptor, struct mmsghdr *messages, unsigned int count, int flags) {
    char text[INET6_ADDRSTRLEN] = "";
    int (*real)(int, struct mmsghdr *, unsigned int, int) = dlsym(RTLD_NEXT, "sendmmsg");
    for (unsigned int index = 0; index < count; index++) {
        const struct msghdr *message = &messages[index].msg_hdr;
        if (message->msg_name && !local(message->msg_name, text, sizeof text)) {
            note("sendmmsg", text);
            errno = ECONNREFUSED;
            return -1;
        }
    }
    return real(descriptor, messages, count, flags);
}

/* Whether a name needs no look-up: none, an address, or this machine's. Others are told. */
static int known(const char *name) {
    struct in6_addr parsed;
    char own[256] = "";
    gethostname(own, sizeof own - 1);
    if (!name || !*name || !strcmp(name, "localhost") || !strcmp(name, own) || inet_pton(AF_INET, name, &parsed) == 1 ||
        inet_pton(AF_INET6, name, &parsed) == 1)
        return 1;
    note("lookup", name);
    return 0;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
    return known(node) ? real(node, service, hints, result) : EAI_FAIL;
}

struct hostent *gethostbyname(const char *name) {
    struct hostent *(*real)(const char *) = dlsym(RTLD_NEXT, "gethostbyname");
    if (known(name)) return real(name);
    h_errno = HOST_NOT_FOUND;
    return NULL;
}

int gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t size, struct hostent **result, int *error) {
    int (*real)(const char *, struct hostent *, char *, size_t, struct hostent **, int *) = dlsym(RTLD_NEXT, "gethostbyname_r");
    if (known(name)) return real(name, entry, buffer, size, result, error);
    *result = NULL;
    *error = HOST_NOT_FOUND;
    return 0;
}
