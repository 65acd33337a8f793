/* SPDX-License-Identifier: Apache-2.0
 *
 * A stand-in for libnvidia-ml.so.1: as much of NVML as drivers of this project call, for cards that
 * a text file describes. It is called through the real Python binding, so what it checks (struct
 * versions, buffer sizes, handles) is what a mistake in a driver would meet on a real host.
 *
 * STAND_IN_NVML_CARDS  the description, written by tests/nvml/stand_in.py
 * STAND_IN_NVML_STATE  a file that holds what happened to the cards; all processes share it
 * STAND_IN_NVML_FAIL   "function:nth=code" joined by ";": that call returns the code and does nothing;
 *                      "code!" does it and then returns the code; "kill" ends the process; "*" is any call
 * STAND_IN_NVML_LOG    a file to which the name of each call is appended
 *
 * stand_in() plays what happens around the library: reboots, resets, processes, virtual functions.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
    NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15,
    RESET_REQUIRED = 16, IN_USE = 19, INSUFFICIENT_RESOURCES = 23, VERSION_MISMATCH = 25,
    UNKNOWN = 999
};
enum { CARDS = 16, PROFILES = 18, PLACES = 64, TYPES = 96, INSTANCES = 16, COMPUTES = 8, VGPUS = 64 };
enum { KIND_CARD = 0x43, KIND_GI, KIND_CI, KIND_MIG };
enum { ME_FIRST = 7, ME_LAST = 8, NO_ME_FIRST = 13, NO_ME_LAST = 14, ALL_ME_FIRST = 15, ALL_ME_LAST = 16 };

typedef unsigned int u32;
typedef unsigned long long u64;

/* --- what a card is ---------------------------------------------------------------------------- */

typedef struct {
    u32 index, id, slices, max, sm, engines[5], size, places, starts[PLACES];
    u64 memory_mib;
    char name[96];
} profile_t;

typedef struct {
    u32 id, max, per_vm, gi_profile, per_gi, size, places, starts[PLACES];
    u64 memory_mib;
    char name[64], klass[64];
} type_t;

typedef struct {
    char name[96], uuid[80], bus[32];
    u32 pci_id, subsystem_id, units, slices, has_mig, keeps_mode, resets, virtualization, profiles, types;
    int host_vgpu;
    u64 memory_mib;
    profile_t profile[PROFILES];
    type_t type[TYPES];
} card_t;

/* --- what happened to it ----------------------------------------------------------------------- */

typedef struct { u32 used, id, profile, start; } ci_t;
typedef struct { u32 used, id, profile, start, size, held; ci_t ci[COMPUTES]; } gi_t;
typedef struct { u32 used, id, type, gi, start; char uuid[40]; } vgpu_t;
typedef struct {
    u32 mode, pending, clients, vfs, lost, mixed;
    gi_t gi[INSTANCES];
    vgpu_t vgpu[VGPUS];
} card_state_t;
typedef struct { u32 size, boots, unprivileged, no_driver, next_vgpu; card_state_t card[CARDS]; } state_t;

typedef struct { int kind; u32 card, gi, ci; } handle_t;

static card_t cards[CARDS];
static u32 card_count;
static char driver[80], cards_path[4096], state_path[4096];
static state_t *state;
static int state_file = -1, users;
static pid_t owner;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static handle_t card_handle[CARDS], gi_handle[CARDS][INSTANCES];
static handle_t ci_handle[CARDS][INSTANCES][COMPUTES], mig_handle[CARDS][INSTANCES][COMPUTES];

/* --- reading the description ------------------------------------------------------------------- */

static char *field(char **rest) { char *one = strsep(rest, "|"); return one ? one : ""; }
static u32 number(char **rest) { return (u32)strtoul(field(rest), NULL, 0); }
static void text(char *to, size_t size, char **rest) { snprintf(to, size, "%s", field(rest)); }

static u32 starts(u32 *to, char **rest)
{
    char *list = field(rest), *one;
    u32 count = 0;
    while ((one = strsep(&list, ",")) && *one && count < PLACES)
        to[count++] = (u32)strtoul(one, NULL, 10);
    return count;
}

static void read_line(char *line)
{
    char *rest = line, *what = field(&rest);
    card_t *card = card_count ? &cards[card_count - 1] : NULL;
    if (!strcmp(what, "driver")) {
        text(driver, sizeof driver, &rest);
    } else if (!strcmp(what, "card") && card_count < CARDS) {
        card = &cards[card_count++];
        memset(card, 0, sizeof *card);
        text(card->name, sizeof card->name, &rest);
        text(card->uuid, sizeof card->uuid, &rest);
        text(card->bus, sizeof card->bus, &rest);
        card->pci_id = number(&rest);
        card->subsystem_id = number(&rest);
        card->memory_mib = number(&rest);
        card->units = number(&rest);
        card->slices = number(&rest);
        card->has_mig = number(&rest);
        card->keeps_mode = number(&rest);
        card->resets = number(&rest);
        card->virtualization = number(&rest);
        card->host_vgpu = atoi(field(&rest));
    } else if (!strcmp(what, "profile") && card && card->profiles < PROFILES) {
        profile_t *one = &card->profile[card->profiles++];
        one->index = number(&rest);
        one->id = number(&rest);
        text(one->name, sizeof one->name, &rest);
        one->slices = number(&rest);
        one->max = number(&rest);
        one->memory_mib = number(&rest);
        one->sm = number(&rest);
        for (u32 i = 0; i < 5; i++)
            one->engines[i] = number(&rest);
        one->size = number(&rest);
        one->places = starts(one->starts, &rest);
    } else if (!strcmp(what, "vgpu") && card && card->types < TYPES) {
        type_t *one = &card->type[card->types++];
        one->id = number(&rest);
        text(one->name, sizeof one->name, &rest);
        text(one->klass, sizeof one->klass, &rest);
        one->memory_mib = number(&rest);
        one->max = number(&rest);
        one->per_vm = number(&rest);
        one->gi_profile = (u32)atoi(field(&rest));
        one->per_gi = number(&rest);
        one->size = number(&rest);
        one->places = starts(one->starts, &rest);
    }
}

static int load(void)
{
    const char *cards_now = getenv("STAND_IN_NVML_CARDS"), *state_now = getenv("STAND_IN_NVML_STATE");
    if (!cards_now || !state_now)
        return DRIVER_NOT_LOADED;
    if (state && !strcmp(cards_now, cards_path) && !strcmp(state_now, state_path))
        return OK;
    if (state && users)
        return OK;
    FILE *file = fopen(cards_now, "r");
    if (!file)
        return DRIVER_NOT_LOADED;
    char line[4096];
    card_count = 0;
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        read_line(line);
    }
    fclose(file);
    if (state)
        munmap(state, sizeof *state);
    if (state_file >= 0)
        close(state_file);
    state = NULL;
    state_file = open(state_now, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (state_file < 0 || ftruncate(state_file, sizeof *state))
        return UNKNOWN;
    void *map = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, state_file, 0);
    if (map == MAP_FAILED)
        return UNKNOWN;
    state = map;
    snprintf(cards_path, sizeof cards_path, "%s", cards_now);
    snprintf(state_path, sizeof state_path, "%s", state_now);
    for (u32 c = 0; c < CARDS; c++) {
        card_handle[c] = (handle_t){KIND_CARD, c, 0, 0};
        for (u32 g = 0; g < INSTANCES; g++) {
            gi_handle[c][g] = (handle_t){KIND_GI, c, g, 0};
            for (u32 i = 0; i < COMPUTES; i++) {
                ci_handle[c][g][i] = (handle_t){KIND_CI, c, g, i};
                mig_handle[c][g][i] = (handle_t){KIND_MIG, c, g, i};
            }
        }
    }
    return OK;
}

/* --- each call: lock, log, fail where asked ---------------------------------------------------- */

static int later;   /* the code to return after the call has done its work */

static int same_name(const char *asked, size_t length, const char *function)
{
    if (length == 1 && *asked == '*')
        return 1;
    if (strncmp(asked, function, length))
        return 0;
    const char *suffix = function + length;
    return !*suffix || !strcmp(suffix, "V") || (suffix[0] == '_' && suffix[1] == 'v');
}

static int planned_failure(const char *function)
{
    static char known[1024];
    static u32 calls[16];
    const char *plan = getenv("STAND_IN_NVML_FAIL");
    plan = plan ? plan : "";
    if (strcmp(plan, known)) {
        snprintf(known, sizeof known, "%s", plan);
        memset(calls, 0, sizeof calls);
    }
    int code = OK;
    char copy[1024], *rest = copy, *one;
    snprintf(copy, sizeof copy, "%s", plan);
    for (u32 at = 0; at < 16 && (one = strsep(&rest, ";")); at++) {
        char *colon = strchr(one, ':'), *equals = colon ? strchr(colon, '=') : NULL;
        if (!equals || !same_name(one, (size_t)(colon - one), function))
            continue;
        if (++calls[at] != strtoul(colon + 1, NULL, 10))
            continue;
        if (!strcmp(equals + 1, "kill"))
            kill(getpid(), SIGKILL);
        if (strchr(equals, '!'))
            later = atoi(equals + 1);
        else
            code = atoi(equals + 1);
    }
    return code;
}

static void note(const char *function)
{
    const char *path = getenv("STAND_IN_NVML_LOG");
    FILE *file = path && *path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", function);
        fclose(file);
    }
}

static void lock(void) { pthread_mutex_lock(&mutex); if (state_file >= 0) flock(state_file, LOCK_EX); }

static int leave(int code)
{
    if (code == OK && later)
        code = later;
    later = OK;
    if (state_file >= 0)
        flock(state_file, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    return code;
}

static int enter(const char *function)
{
    lock();
    later = OK;
    note(function);
    if (!users || owner != getpid())
        return leave(UNINITIALIZED);
    int code = planned_failure(function);
    return code ? leave(code) : OK;
}

#define ENTER do { int code_ = enter(__func__); if (code_) return code_; } while (0)
#define NEED(condition, code) do { if (!(condition)) return leave(code); } while (0)
#define ROOT NEED(!state->unprivileged, NO_PERMISSION)
#define CARD \
    NEED(h && (h->kind == KIND_CARD || h->kind == KIND_MIG) && h->card < card_count, INVALID_ARGUMENT); \
    card_t *card = &cards[h->card]; card_state_t *now = &state->card[h->card]; \
    NEED(!now->lost, GPU_IS_LOST); \
    NEED(h->kind == KIND_CARD || now->gi[h->gi].ci[h->ci].used, INVALID_ARGUMENT); \
    (void)card; (void)now
#define WHOLE_CARD CARD; NEED(h->kind == KIND_CARD, INVALID_ARGUMENT)
#define GI \
    NEED(h && h->kind == KIND_GI, INVALID_ARGUMENT); \
    card_t *card = &cards[h->card]; card_state_t *now = &state->card[h->card]; \
    gi_t *gi = &now->gi[h->gi]; \
    NEED(!now->lost, GPU_IS_LOST); \
    NEED(gi->used, INVALID_ARGUMENT); \
    (void)card
#define OPTIONAL_TEXT(to, size, from) \
    do { NEED(to, INVALID_ARGUMENT); NEED(strlen(from) < (size), INSUFFICIENT_SIZE); strcpy(to, from); } while (0)
#define EXPORT __attribute__((visibility("default")))

/* --- the arithmetic of a card ------------------------------------------------------------------ */

static u64 mask(u32 start, u32 size) { return ((1ull << size) - 1) << start; }

static u64 used_units(const card_state_t *now)
{
    u64 used = 0;
    for (u32 g = 0; g < INSTANCES; g++)
        if (now->gi[g].used)
            used |= mask(now->gi[g].start, now->gi[g].size);
    return used;
}

static profile_t *profile_by_id(card_t *card, u32 id)
{
    for (u32 i = 0; i < card->profiles; i++)
        if (card->profile[i].id == id)
            return &card->profile[i];
    return NULL;
}

static int within(u32 index, u32 first, u32 last) { return index >= first && index <= last; }

/* A card has one set of media engines to give, and an instance may take all of them. */
static int media_left(card_t *card, const card_state_t *now, const profile_t *wanted)
{
    int one = within(wanted->index, ME_FIRST, ME_LAST), all = within(wanted->index, ALL_ME_FIRST, ALL_ME_LAST);
    for (u32 g = 0; g < INSTANCES; g++) {
        if (!now->gi[g].used)
            continue;
        u32 there = profile_by_id(card, now->gi[g].profile)->index;
        int there_all = within(there, ALL_ME_FIRST, ALL_ME_LAST);
        if ((one || all) && (there_all || within(there, ME_FIRST, ME_LAST)))
            return 0;
        if (all && !within(there, NO_ME_FIRST, NO_ME_LAST))
            return 0;
        if (there_all && !within(wanted->index, NO_ME_FIRST, NO_ME_LAST))
            return 0;
    }
    return 1;
}

static u32 capacity(card_t *card, const card_state_t *now, const profile_t *profile)
{
    u32 existing = 0, more = 0;
    u64 used = used_units(now);
    for (u32 g = 0; g < INSTANCES; g++)
        existing += now->gi[g].used && now->gi[g].profile == profile->id;
    if (!media_left(card, now, profile))
        return 0;
    for (u32 i = 0; i < profile->places; i++)
        if (!(used & mask(profile->starts[i], profile->size))) {
            used |= mask(profile->starts[i], profile->size);
            more++;
        }
    return existing + more > profile->max ? profile->max - existing : more;
}

/* Where the driver puts an instance when nobody says: where fewest other placements are lost, the
 * lowest of equal ones. It repeats the published outcomes, among them the order that ends badly. */
static int own_choice(card_t *card, const card_state_t *now, const profile_t *profile)
{
    u64 used = used_units(now);
    int best = -1;
    u32 best_lost = ~0u;
    for (u32 i = 0; i < profile->places; i++) {
        u64 mine = mask(profile->starts[i], profile->size);
        u32 lost = 0;
        if (used & mine)
            continue;
        for (u32 p = 0; p < card->profiles; p++)
            for (u32 k = 0; k < card->profile[p].places; k++) {
                u64 other = mask(card->profile[p].starts[k], card->profile[p].size);
                lost += !(other & used) && (other & mine);
            }
        if (lost < best_lost) {
            best_lost = lost;
            best = (int)profile->starts[i];
        }
    }
    return best;
}

static u32 new_gi_id(card_t *card, const card_state_t *now, u32 size)
{
    for (u32 id = card->units / size - 1;; id++) {
        int taken = 0;
        for (u32 g = 0; g < INSTANCES; g++)
            taken |= now->gi[g].used && now->gi[g].id == id;
        if (!taken)
            return id;
    }
}

static int create_gi(u32 c, u32 profile_id, int start, handle_t **made)
{
    card_t *card = &cards[c];
    card_state_t *now = &state->card[c];
    profile_t *profile = profile_by_id(card, profile_id);
    if (state->unprivileged)
        return NO_PERMISSION;
    if (!card->has_mig || !now->mode)
        return NOT_SUPPORTED;
    if (!profile)
        return INVALID_ARGUMENT;
    if (!capacity(card, now, profile))
        return INSUFFICIENT_RESOURCES;
    if (start < 0)
        start = own_choice(card, now, profile);
    if (start < 0 || used_units(now) & mask((u32)start, profile->size))
        return INSUFFICIENT_RESOURCES;
    for (u32 g = 0; g < INSTANCES; g++) {
        gi_t *gi = &now->gi[g];
        if (gi->used)
            continue;
        u32 id = new_gi_id(card, now, profile->size);
        memset(gi, 0, sizeof *gi);
        *gi = (gi_t){.used = 1, .id = id, .profile = profile_id, .start = (u32)start, .size = profile->size};
        *made = &gi_handle[c][g];
        return OK;
    }
    return INSUFFICIENT_RESOURCES;
}

static void wipe(card_state_t *now)
{
    memset(now->gi, 0, sizeof now->gi);
    memset(now->vgpu, 0, sizeof now->vgpu);
    now->mixed = 0;
}

static int has_instances(const card_state_t *now)
{
    for (u32 g = 0; g < INSTANCES; g++)
        if (now->gi[g].used)
            return 1;
    return 0;
}

/* --- the library ------------------------------------------------------------------------------- */

EXPORT int nvmlInitWithFlags(u32 flags)
{
    (void)flags;
    pthread_mutex_lock(&mutex);
    if (owner != getpid())
        users = 0;
    int code = load();
    note(__func__);
    if (!code)
        code = planned_failure(__func__);
    if (!code && state->no_driver)
        code = DRIVER_NOT_LOADED;
    if (!code) {
        users++;
        owner = getpid();
    }
    later = OK;
    pthread_mutex_unlock(&mutex);
    return code;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void)
{
    ENTER;
    users--;
    return leave(OK);
}

EXPORT int nvmlSystemGetDriverVersion(char *version, u32 length)
{
    ENTER;
    OPTIONAL_TEXT(version, length, driver);
    return leave(OK);
}

EXPORT int nvmlDeviceGetCount_v2(u32 *count)
{
    ENTER;
    NEED(count, INVALID_ARGUMENT);
    *count = card_count;
    return leave(OK);
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(u32 index, handle_t **device)
{
    ENTER;
    NEED(device && index < card_count, INVALID_ARGUMENT);
    NEED(!state->card[index].lost, GPU_IS_LOST);
    *device = &card_handle[index];
    return leave(OK);
}

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, handle_t **device)
{
    ENTER;
    NEED(bus && device, INVALID_ARGUMENT);
    /* the domain may have 4 or 8 digits */
    const char *colon = strchr(bus, ':');
    int digits = colon ? (int)(colon - bus) : 0;
    for (u32 c = 0; c < card_count; c++)
        if ((digits == 8 && !strcasecmp(bus, cards[c].bus))
            || (digits == 4 && !strcasecmp(bus, cards[c].bus + 4))) {
            NEED(!state->card[c].lost, GPU_IS_LOST);
            *device = &card_handle[c];
            return leave(OK);
        }
    return leave(NOT_FOUND);
}

/* The UUID of a MIG device depends on where it lies: made again in the same place it is the same. */
static void mig_uuid(u32 c, const gi_t *gi, const ci_t *ci, char *to)
{
    char seed[160];
    u64 half[2] = {14695981039346656037ull, 1099511628211ull};
    snprintf(seed, sizeof seed, "%s/%u/%u/%u/%u", cards[c].uuid, gi->profile, gi->start, ci->profile, ci->start);
    for (const char *at = seed; *at; at++) {
        half[0] = (half[0] ^ (unsigned char)*at) * 1099511628211ull;
        half[1] = (half[1] + half[0]) * 6364136223846793005ull + 1;
    }
    snprintf(to, 80, "MIG-%08x-%04x-5%03x-8%03x-%012llx", (u32)(half[0] >> 32), (u32)(half[0] >> 16) & 0xffff,
             (u32)half[0] & 0xfff, (u32)(half[1] >> 48) & 0xfff, half[1] & 0xffffffffffffull);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, handle_t **device)
{
    ENTER;
    NEED(uuid && device, INVALID_ARGUMENT);
    for (u32 c = 0; c < card_count; c++) {
        if (!strcmp(uuid, cards[c].uuid)) {
            *device = &card_handle[c];
            return leave(OK);
        }
        for (u32 g = 0; g < INSTANCES; g++)
            for (u32 i = 0; i < COMPUTES; i++) {
                gi_t *gi = &state->card[c].gi[g];
                char found[80];
                if (!gi->used || !gi->ci[i].used)
                    continue;
                mig_uuid(c, gi, &gi->ci[i], found);
                if (!strcmp(uuid, found)) {
                    *device = &mig_handle[c][g][i];
                    return leave(OK);
                }
            }
    }
    return leave(NOT_FOUND);
}

typedef struct {
    char legacy[16];
    u32 domain, bus, device, id, subsystem;
    char text[32];
} pci_t;
_Static_assert(sizeof(pci_t) == 68, "nvmlPciInfo_t");

EXPORT int nvmlDeviceGetPciInfo_v3(handle_t *h, pci_t *pci)
{
    ENTER;
    CARD;
    NEED(pci, INVALID_ARGUMENT);
    memset(pci, 0, sizeof *pci);
    sscanf(card->bus, "%x:%x:%x", &pci->domain, &pci->bus, &pci->device);
    snprintf(pci->legacy, sizeof pci->legacy, "%s", card->bus + 4);
    snprintf(pci->text, sizeof pci->text, "%s", card->bus);
    pci->id = card->pci_id;
    pci->subsystem = card->subsystem_id;
    return leave(OK);
}

EXPORT int nvmlDeviceGetUUID(handle_t *h, char *uuid, u32 length)
{
    ENTER;
    CARD;
    char found[80];
    if (h->kind == KIND_MIG)
        mig_uuid(h->card, &now->gi[h->gi], &now->gi[h->gi].ci[h->ci], found);
    else
        snprintf(found, sizeof found, "%s", card->uuid);
    OPTIONAL_TEXT(uuid, length, found);
    return leave(OK);
}

EXPORT int nvmlDeviceGetName(handle_t *h, char *name, u32 length)
{
    ENTER;
    CARD;
    char found[256];
    snprintf(found, sizeof found, "%s%s%s", card->name, h->kind == KIND_MIG ? " " : "",
             h->kind == KIND_MIG ? profile_by_id(card, now->gi[h->gi].profile)->name : "");
    OPTIONAL_TEXT(name, length, found);
    return leave(OK);
}

typedef struct { u64 total, free, used; } memory_t;
typedef struct { u32 version; u64 total, reserved, free, used; } memory2_t;
_Static_assert(sizeof(memory2_t) == 40, "nvmlMemory_v2_t");

static u64 memory_of(const handle_t *h)
{
    u64 mib = cards[h->card].memory_mib;
    if (h->kind == KIND_MIG)
        mib = profile_by_id(&cards[h->card], state->card[h->card].gi[h->gi].profile)->memory_mib;
    return mib << 20;
}

EXPORT int nvmlDeviceGetMemoryInfo(handle_t *h, memory_t *memory)
{
    ENTER;
    CARD;
    NEED(memory, INVALID_ARGUMENT);
    *memory = (memory_t){memory_of(h), memory_of(h), 0};
    return leave(OK);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(handle_t *h, memory2_t *memory)
{
    ENTER;
    CARD;
    NEED(memory, INVALID_ARGUMENT);
    NEED(memory->version == (sizeof *memory | 2u << 24), VERSION_MISMATCH);
    memory->total = memory->free = memory_of(h);
    memory->reserved = memory->used = 0;
    return leave(OK);
}

/* pid, memory, GPU instance, compute instance */
typedef struct { u32 pid; unsigned long long used; u32 gi, ci; } process_t;

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(handle_t *h, u32 *count, process_t *processes)
{
    ENTER;
    CARD;
    NEED(count, INVALID_ARGUMENT);
    u32 room = *count, clients = now->clients;
    *count = clients;
    if (clients && (!processes || room < clients))
        return leave(INSUFFICIENT_SIZE);
    for (u32 i = 0; i < clients; i++)
        processes[i] = (process_t){ .pid = 1000 + i, .gi = ~0u, .ci = ~0u };
    return leave(OK);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(handle_t *h, u32 *count, process_t *processes)
{
    ENTER;
    CARD;
    NEED(count, INVALID_ARGUMENT);
    (void)processes;
    *count = 0;
    return leave(OK);
}

/* All that drivers before R515 know, with the same structure. */
EXPORT int nvmlDeviceGetComputeRunningProcesses_v2(handle_t *h, u32 *count, process_t *processes)
{
    return nvmlDeviceGetComputeRunningProcesses_v3(h, count, processes);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v2(handle_t *h, u32 *count, process_t *processes)
{
    return nvmlDeviceGetGraphicsRunningProcesses_v3(h, count, processes);
}

EXPORT int nvmlDeviceGetVirtualizationMode(handle_t *h, u32 *mode)
{
    ENTER;
    CARD;
    NEED(mode, INVALID_ARGUMENT);
    *mode = card->virtualization;
    return leave(OK);
}

EXPORT int nvmlDeviceGetHostVgpuMode(handle_t *h, u32 *mode)
{
    ENTER;
    CARD;
    NEED(mode, INVALID_ARGUMENT);
    NEED(card->host_vgpu >= 0, NOT_SUPPORTED);
    *mode = (u32)card->host_vgpu;
    return leave(OK);
}

/* --- MIG mode ---------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetMigMode(handle_t *h, u32 *current, u32 *pending)
{
    ENTER;
    WHOLE_CARD;
    NEED(current && pending, INVALID_ARGUMENT);
    NEED(card->has_mig, NOT_SUPPORTED);
    *current = now->mode;
    *pending = now->pending;
    return leave(OK);
}

EXPORT int nvmlDeviceSetMigMode(handle_t *h, u32 mode, int *activation)
{
    ENTER;
    WHOLE_CARD;
    NEED(activation && mode <= 1, INVALID_ARGUMENT);
    NEED(card->has_mig, NOT_SUPPORTED);
    ROOT;
    *activation = OK;
    if (now->mode == mode && now->pending == mode)
        return leave(OK);
    now->pending = mode;
    if (mode == now->mode)
        return leave(OK);
    if (now->clients || (!mode && (now->vfs || has_instances(now))))
        *activation = IN_USE;
    else if (card->keeps_mode && !card->resets)
        *activation = RESET_REQUIRED;
    else {
        now->mode = mode;
        wipe(now);
    }
    return leave(OK);
}

EXPORT int nvmlDeviceGetMaxMigDeviceCount(handle_t *h, u32 *count)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    *count = card->has_mig ? card->slices : 0;
    return leave(OK);
}

/* --- GPU instance profiles --------------------------------------------------------------------- */

typedef struct { u32 id, p2p, slices, instances, sm, engines[5]; u64 memory_mib; } profile_info_t;
typedef struct {
    u32 version, id, p2p, slices, instances, sm, engines[5];
    u64 memory_mib;
    char name[96];
} profile_info2_t;
_Static_assert(sizeof(profile_info_t) == 48 && sizeof(profile_info2_t) == 152, "nvmlGpuInstanceProfileInfo");

static void tell_profile(const profile_t *profile, profile_info2_t *info)
{
    info->id = profile->id;
    info->p2p = 0;
    info->slices = profile->slices;
    info->instances = profile->max;
    info->sm = profile->sm;
    memcpy(info->engines, profile->engines, sizeof info->engines);
    info->memory_mib = profile->memory_mib;
    snprintf(info->name, sizeof info->name, "%s", profile->name);
}

static int profile_by_index(card_t *card, u32 index, profile_t **found)
{
    if (!card->has_mig)
        return NOT_SUPPORTED;
    if (index >= PROFILES)
        return INVALID_ARGUMENT;
    for (u32 i = 0; i < card->profiles; i++)
        if (card->profile[i].index == index) {
            *found = &card->profile[i];
            return OK;
        }
    return NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetGpuInstanceProfileInfo(handle_t *h, u32 index, profile_info_t *info)
{
    ENTER;
    WHOLE_CARD;
    profile_t *profile = NULL;
    profile_info2_t all;
    NEED(info, INVALID_ARGUMENT);
    int code = profile_by_index(card, index, &profile);
    NEED(!code, code);
    tell_profile(profile, &all);
    *info = (profile_info_t){all.id, all.p2p, all.slices, all.instances, all.sm, {0}, all.memory_mib};
    memcpy(info->engines, all.engines, sizeof info->engines);
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstanceProfileInfoV(handle_t *h, u32 index, profile_info2_t *info)
{
    ENTER;
    WHOLE_CARD;
    profile_t *profile = NULL;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), VERSION_MISMATCH);
    int code = profile_by_index(card, index, &profile);
    NEED(!code, code);
    tell_profile(profile, info);
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstanceProfileInfoByIdV(handle_t *h, u32 id, profile_info2_t *info)
{
    ENTER;
    WHOLE_CARD;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), VERSION_MISMATCH);
    NEED(card->has_mig, NOT_SUPPORTED);
    NEED(profile_by_id(card, id), INVALID_ARGUMENT);
    tell_profile(profile_by_id(card, id), info);
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstanceRemainingCapacity(handle_t *h, u32 id, u32 *count)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    NEED(card->has_mig && now->mode, NOT_SUPPORTED);
    NEED(profile_by_id(card, id), INVALID_ARGUMENT);
    *count = capacity(card, now, profile_by_id(card, id));
    return leave(OK);
}

typedef struct { u32 start, size; } placement_t;

EXPORT int nvmlDeviceGetGpuInstancePossiblePlacements_v2(handle_t *h, u32 id, placement_t *to, u32 *count)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    NEED(card->has_mig, NOT_SUPPORTED);
    ROOT;
    profile_t *profile = profile_by_id(card, id);
    NEED(profile, INVALID_ARGUMENT);
    NEED(!to || *count >= profile->places, INSUFFICIENT_SIZE);
    *count = profile->places;
    for (u32 i = 0; to && i < profile->places; i++)
        to[i] = (placement_t){profile->starts[i], profile->size};
    return leave(OK);
}

/* --- GPU instances ----------------------------------------------------------------------------- */

EXPORT int nvmlDeviceCreateGpuInstance(handle_t *h, u32 id, handle_t **made)
{
    ENTER;
    WHOLE_CARD;
    NEED(made, INVALID_ARGUMENT);
    return leave(create_gi(h->card, id, -1, made));
}

EXPORT int nvmlDeviceCreateGpuInstanceWithPlacement(handle_t *h, u32 id, const placement_t *place, handle_t **made)
{
    ENTER;
    WHOLE_CARD;
    NEED(made && place, INVALID_ARGUMENT);
    profile_t *profile = profile_by_id(card, id);
    NEED(profile, INVALID_ARGUMENT);
    int known = 0;
    for (u32 i = 0; i < profile->places; i++)
        known |= profile->starts[i] == place->start && profile->size == place->size;
    NEED(known, INVALID_ARGUMENT);
    return leave(create_gi(h->card, id, (int)place->start, made));
}

EXPORT int nvmlGpuInstanceDestroy(handle_t *h)
{
    ENTER;
    GI;
    ROOT;
    for (u32 i = 0; i < COMPUTES; i++)
        NEED(!gi->ci[i].used, IN_USE);
    for (u32 v = 0; v < VGPUS; v++)
        NEED(!now->vgpu[v].used || now->vgpu[v].gi != gi->id + 1, IN_USE);
    NEED(!gi->held, IN_USE);
    memset(gi, 0, sizeof *gi);
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstances(handle_t *h, u32 id, handle_t **to, u32 *count)
{
    ENTER;
    WHOLE_CARD;
    NEED(to && count, INVALID_ARGUMENT);
    NEED(card->has_mig && now->mode, NOT_SUPPORTED);
    ROOT;
    NEED(profile_by_id(card, id), INVALID_ARGUMENT);
    *count = 0;
    for (u32 g = 0; g < INSTANCES; g++)
        if (now->gi[g].used && now->gi[g].profile == id)
            to[(*count)++] = &gi_handle[h->card][g];
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstanceById(handle_t *h, u32 id, handle_t **to)
{
    ENTER;
    WHOLE_CARD;
    NEED(to, INVALID_ARGUMENT);
    NEED(card->has_mig && now->mode, NOT_SUPPORTED);
    ROOT;
    for (u32 g = 0; g < INSTANCES; g++)
        if (now->gi[g].used && now->gi[g].id == id) {
            *to = &gi_handle[h->card][g];
            return leave(OK);
        }
    return leave(NOT_FOUND);
}

typedef struct { handle_t *device; u32 id, profile; placement_t place; } gi_info_t;
_Static_assert(sizeof(gi_info_t) == 24, "nvmlGpuInstanceInfo_t");

EXPORT int nvmlGpuInstanceGetInfo(handle_t *h, gi_info_t *info)
{
    ENTER;
    GI;
    NEED(info, INVALID_ARGUMENT);
    *info = (gi_info_t){&card_handle[h->card], gi->id, gi->profile, {gi->start, gi->size}};
    return leave(OK);
}

/* --- compute instances ------------------------------------------------------------------------- */

/* 8_SLICE, 6_SLICE: no card here has them. A 1g of double memory has 1_SLICE_REV1 too, which takes
 * multiprocessors that 1_SLICE leaves out; Ampere names 7_SLICE_NVL, and never makes it. */
static const u32 compute_slices[] = {1, 2, 3, 4, 7, 0, 0, 1, 7};
enum { COMPUTE_PROFILES = 9, PLAIN = 0, DOUBLE_MEMORY = 9, ONE_SLICE_REV1 = 7, SEVEN_SLICE_NVL = 8 };

typedef struct { u32 id, slices, instances, sm, shared[5]; } ci_profile_t;
typedef struct { u32 version, id, slices, instances, sm, shared[5]; char name[96]; } ci_profile2_t;
_Static_assert(sizeof(ci_profile_t) == 36 && sizeof(ci_profile2_t) == 136, "nvmlComputeInstanceProfileInfo");

static u32 ci_sm(card_t *card, const profile_t *profile, u32 index)
{
    for (u32 i = 0; profile->index == DOUBLE_MEMORY && !index && i < card->profiles; i++)
        if (card->profile[i].index == PLAIN)
            return card->profile[i].sm;
    return profile->sm / profile->slices * compute_slices[index];
}

static int ci_profile(handle_t *h, u32 index, u32 engine, ci_profile2_t *info)
{
    card_t *card = &cards[h->card];
    profile_t *profile = profile_by_id(card, state->card[h->card].gi[h->gi].profile);
    if (engine || index >= COMPUTE_PROFILES)
        return INVALID_ARGUMENT;
    if (!compute_slices[index] || compute_slices[index] > profile->slices
        || (index == ONE_SLICE_REV1 && profile->index != DOUBLE_MEMORY)
        || (index == SEVEN_SLICE_NVL && !card->keeps_mode))
        return NOT_SUPPORTED;
    info->id = index;
    info->slices = compute_slices[index];
    info->instances = profile->slices / info->slices;
    info->sm = ci_sm(card, profile, index);
    memcpy(info->shared, profile->engines, sizeof info->shared);
    const char *name = strncmp(profile->name, "MIG ", 4) ? profile->name : profile->name + 4;
    if (info->slices == profile->slices)
        snprintf(info->name, sizeof info->name, "MIG %.80s", name);
    else
        snprintf(info->name, sizeof info->name, "MIG %uc.%.60s", info->slices, name);
    return OK;
}

EXPORT int nvmlGpuInstanceGetComputeInstanceProfileInfo(handle_t *h, u32 index, u32 engine, ci_profile_t *info)
{
    ENTER;
    GI;
    ci_profile2_t all;
    NEED(info, INVALID_ARGUMENT);
    int code = ci_profile(h, index, engine, &all);
    NEED(!code, code);
    *info = (ci_profile_t){all.id, all.slices, all.instances, all.sm, {0}};
    memcpy(info->shared, all.shared, sizeof info->shared);
    return leave(OK);
}

EXPORT int nvmlGpuInstanceGetComputeInstanceProfileInfoV(handle_t *h, u32 index, u32 engine, ci_profile2_t *info)
{
    ENTER;
    GI;
    NEED(info, INVALID_ARGUMENT);
    NEED(info->version == (sizeof *info | 2u << 24), VERSION_MISMATCH);
    return leave(ci_profile(h, index, engine, info));
}

static u32 free_slices(card_t *card, const gi_t *gi, u32 *taken)
{
    u32 all = profile_by_id(card, gi->profile)->slices, used = 0;
    *taken = 0;
    for (u32 i = 0; i < COMPUTES; i++)
        if (gi->ci[i].used)
            *taken |= (u32)mask(gi->ci[i].start, compute_slices[gi->ci[i].profile]);
    for (u32 at = 0; at < all; at++)
        used += *taken >> at & 1;
    return all - used;
}

EXPORT int nvmlGpuInstanceGetComputeInstanceRemainingCapacity(handle_t *h, u32 id, u32 *count)
{
    ENTER;
    GI;
    ci_profile2_t info;
    u32 taken;
    NEED(count, INVALID_ARGUMENT);
    int code = ci_profile(h, id, 0, &info);
    NEED(!code, code);
    *count = free_slices(card, gi, &taken) / info.slices;
    return leave(OK);
}

EXPORT int nvmlGpuInstanceGetComputeInstancePossiblePlacements(handle_t *h, u32 id, placement_t *to, u32 *count)
{
    ENTER;
    GI;
    ci_profile2_t info;
    NEED(count, INVALID_ARGUMENT);
    int code = ci_profile(h, id, 0, &info);
    NEED(!code, code);
    NEED(!to || *count >= info.instances, INSUFFICIENT_SIZE);
    *count = info.instances;
    for (u32 i = 0; to && i < info.instances; i++)
        to[i] = (placement_t){i * info.slices, info.slices};
    return leave(OK);
}

static int create_ci(handle_t *h, u32 id, int wanted, handle_t **made)
{
    card_t *card = &cards[h->card];
    gi_t *gi = &state->card[h->card].gi[h->gi];
    ci_profile2_t info;
    u32 taken, all = profile_by_id(card, gi->profile)->slices;
    if (state->unprivileged)
        return NO_PERMISSION;
    if (ci_profile(h, id, 0, &info))
        return INVALID_ARGUMENT;
    if (id == SEVEN_SLICE_NVL)
        return NOT_SUPPORTED;
    if (free_slices(card, gi, &taken) < info.slices)
        return INSUFFICIENT_RESOURCES;
    for (u32 start = 0; start + info.slices <= all; start++) {
        if ((wanted >= 0 && start != (u32)wanted) || taken & mask(start, info.slices))
            continue;
        for (u32 i = 0; i < COMPUTES; i++)
            if (!gi->ci[i].used) {
                gi->ci[i] = (ci_t){1, i, id, start};
                *made = &ci_handle[h->card][h->gi][i];
                return OK;
            }
    }
    return INSUFFICIENT_RESOURCES;
}

EXPORT int nvmlGpuInstanceCreateComputeInstance(handle_t *h, u32 id, handle_t **made)
{
    ENTER;
    GI;
    NEED(made, INVALID_ARGUMENT);
    return leave(create_ci(h, id, -1, made));
}

EXPORT int nvmlGpuInstanceCreateComputeInstanceWithPlacement(handle_t *h, u32 id, const placement_t *place,
                                                             handle_t **made)
{
    ENTER;
    GI;
    NEED(made && place, INVALID_ARGUMENT);
    return leave(create_ci(h, id, (int)place->start, made));
}

EXPORT int nvmlComputeInstanceDestroy(handle_t *h)
{
    ENTER;
    NEED(h && h->kind == KIND_CI, INVALID_ARGUMENT);
    gi_t *gi = &state->card[h->card].gi[h->gi];
    NEED(!state->card[h->card].lost, GPU_IS_LOST);
    NEED(gi->used && gi->ci[h->ci].used, INVALID_ARGUMENT);
    ROOT;
    NEED(!gi->held, IN_USE);
    memset(&gi->ci[h->ci], 0, sizeof gi->ci[h->ci]);
    return leave(OK);
}

EXPORT int nvmlGpuInstanceGetComputeInstances(handle_t *h, u32 id, handle_t **to, u32 *count)
{
    ENTER;
    GI;
    ROOT;
    NEED(to && count, INVALID_ARGUMENT);
    *count = 0;
    for (u32 i = 0; i < COMPUTES; i++)
        if (gi->ci[i].used && gi->ci[i].profile == id)
            to[(*count)++] = &ci_handle[h->card][h->gi][i];
    return leave(OK);
}

EXPORT int nvmlGpuInstanceGetComputeInstanceById(handle_t *h, u32 id, handle_t **to)
{
    ENTER;
    GI;
    ROOT;
    NEED(to, INVALID_ARGUMENT);
    NEED(id < COMPUTES && gi->ci[id].used, NOT_FOUND);
    *to = &ci_handle[h->card][h->gi][id];
    return leave(OK);
}

typedef struct { handle_t *device, *gi; u32 id, profile; placement_t place; } ci_info_t;
_Static_assert(sizeof(ci_info_t) == 32, "nvmlComputeInstanceInfo_t");

EXPORT int nvmlComputeInstanceGetInfo_v2(handle_t *h, ci_info_t *info)
{
    ENTER;
    NEED(h && h->kind == KIND_CI && info, INVALID_ARGUMENT);
    ci_t *ci = &state->card[h->card].gi[h->gi].ci[h->ci];
    NEED(ci->used, INVALID_ARGUMENT);
    *info = (ci_info_t){&card_handle[h->card], &gi_handle[h->card][h->gi], ci->id, ci->profile,
                        {ci->start, compute_slices[ci->profile]}};
    return leave(OK);
}

/* --- MIG devices ------------------------------------------------------------------------------- */

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(handle_t *h, u32 index, handle_t **to)
{
    ENTER;
    WHOLE_CARD;
    NEED(to, INVALID_ARGUMENT);
    NEED(card->has_mig && now->mode, NOT_SUPPORTED);
    NEED(index < card->slices, INVALID_ARGUMENT);
    for (u32 g = 0, at = 0; g < INSTANCES; g++)
        for (u32 i = 0; i < COMPUTES; i++)
            if (now->gi[g].used && now->gi[g].ci[i].used && at++ == index) {
                *to = &mig_handle[h->card][g][i];
                return leave(OK);
            }
    return leave(NOT_FOUND);
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle_t *h, handle_t **to)
{
    ENTER;
    CARD;
    NEED(to && h->kind == KIND_MIG, INVALID_ARGUMENT);
    *to = &card_handle[h->card];
    return leave(OK);
}

EXPORT int nvmlDeviceIsMigDeviceHandle(handle_t *h, u32 *is_mig)
{
    ENTER;
    CARD;
    NEED(is_mig, INVALID_ARGUMENT);
    *is_mig = h->kind == KIND_MIG;
    return leave(OK);
}

EXPORT int nvmlDeviceGetGpuInstanceId(handle_t *h, u32 *id)
{
    ENTER;
    CARD;
    NEED(id && h->kind == KIND_MIG, INVALID_ARGUMENT);
    *id = now->gi[h->gi].id;
    return leave(OK);
}

EXPORT int nvmlDeviceGetComputeInstanceId(handle_t *h, u32 *id)
{
    ENTER;
    CARD;
    NEED(id && h->kind == KIND_MIG, INVALID_ARGUMENT);
    *id = now->gi[h->gi].ci[h->ci].id;
    return leave(OK);
}

typedef struct { u32 sm, shared[5], gi_slices, ci_slices; u64 memory_mib; } attributes_t;
_Static_assert(sizeof(attributes_t) == 40, "nvmlDeviceAttributes_t");

EXPORT int nvmlDeviceGetAttributes_v2(handle_t *h, attributes_t *to)
{
    ENTER;
    CARD;
    NEED(to && h->kind == KIND_MIG, INVALID_ARGUMENT);
    profile_t *profile = profile_by_id(card, now->gi[h->gi].profile);
    u32 index = now->gi[h->gi].ci[h->ci].profile;
    *to = (attributes_t){ci_sm(card, profile, index), {0}, profile->slices, compute_slices[index], profile->memory_mib};
    memcpy(to->shared, profile->engines, sizeof to->shared);
    return leave(OK);
}

/* --- vGPU types -------------------------------------------------------------------------------- */

static const u32 NO_PROFILE = 0xFFFFFFFFu;

static type_t *type_by_id(u32 id)
{
    for (u32 c = 0; c < card_count; c++)
        for (u32 t = 0; t < cards[c].types; t++)
            if (cards[c].type[t].id == id)
                return &cards[c].type[t];
    return NULL;
}

static type_t *type_of(card_t *card, u32 id)
{
    for (u32 t = 0; t < card->types; t++)
        if (card->type[t].id == id)
            return &card->type[t];
    return NULL;
}

/* How many vGPUs a GPU instance (id + 1) holds; ~0 if one has another framebuffer size. */
static u32 inside(card_t *card, const card_state_t *now, u32 gi, u64 memory_mib)
{
    u32 count = 0;
    for (u32 v = 0; v < VGPUS; v++)
        if (now->vgpu[v].used && now->vgpu[v].gi == gi) {
            if (type_of(card, now->vgpu[v].type)->memory_mib != memory_mib)
                return ~0u;
            count++;
        }
    return count;
}

/* Where a vGPU of this type could be made now: in a GPU instance, or on the card. */
static int room_for(card_t *card, const card_state_t *now, const type_t *type, u32 *gi, u32 *start)
{
    u32 count = 0;
    u64 used = 0;
    *gi = *start = 0;
    if (card->host_vgpu == 1 && !now->vfs)
        return 0;
    if ((type->gi_profile != NO_PROFILE) != (now->mode != 0))
        return 0;
    if (now->mode) {
        for (u32 g = 0; g < INSTANCES; g++)
            if (now->gi[g].used && now->gi[g].profile == type->gi_profile
                && inside(card, now, now->gi[g].id + 1, type->memory_mib) < type->per_gi) {
                *gi = now->gi[g].id + 1;
                return 1;
            }
        return 0;
    }
    for (u32 v = 0; v < VGPUS; v++)
        if (now->vgpu[v].used) {
            if (!now->mixed && now->vgpu[v].type != type->id)
                return 0;
            used |= mask(now->vgpu[v].start, type_of(card, now->vgpu[v].type)->size);
            count++;
        }
    if (!now->mixed)
        return count < type->max;
    for (u32 i = 0; i < type->places; i++)
        if (!(used & mask(type->starts[i], type->size))) {
            *start = type->starts[i];
            return 1;
        }
    return 0;
}

static int tell_types(card_t *card, const card_state_t *now, int creatable, u32 *count, u32 *to)
{
    u32 found = 0, gi, start;
    if (card->host_vgpu < 0)
        return NOT_SUPPORTED;
    for (u32 t = 0; t < card->types; t++)
        found += !creatable || room_for(card, now, &card->type[t], &gi, &start);
    u32 room = *count;
    *count = found;
    if (found > room)
        return INSUFFICIENT_SIZE;
    if (found && !to)
        return INVALID_ARGUMENT;
    for (u32 t = 0, at = 0; t < card->types; t++)
        if (!creatable || room_for(card, now, &card->type[t], &gi, &start))
            to[at++] = card->type[t].id;
    return OK;
}

EXPORT int nvmlDeviceGetSupportedVgpus(handle_t *h, u32 *count, u32 *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    return leave(tell_types(card, now, 0, count, to));
}

EXPORT int nvmlDeviceGetCreatableVgpus(handle_t *h, u32 *count, u32 *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    return leave(tell_types(card, now, 1, count, to));
}

EXPORT int nvmlDeviceGetActiveVgpus(handle_t *h, u32 *count, u32 *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(count, INVALID_ARGUMENT);
    NEED(card->host_vgpu >= 0, NOT_SUPPORTED);
    u32 found = 0, room = *count;
    for (u32 v = 0; v < VGPUS; v++)
        found += now->vgpu[v].used;
    *count = found;
    NEED(found <= room, INSUFFICIENT_SIZE);
    for (u32 v = 0, at = 0; v < VGPUS; v++)
        if (now->vgpu[v].used)
            to[at++] = now->vgpu[v].id;
    return leave(OK);
}

#define TYPE ENTER; type_t *type = type_by_id(id); NEED(type, INVALID_ARGUMENT)
#define TELL(kind, name, value) \
    EXPORT int name(u32 id, kind *to) { TYPE; NEED(to, INVALID_ARGUMENT); *to = (value); return leave(OK); }
#define TELL_TEXT(name, value) \
    EXPORT int name(u32 id, char *to, u32 *size) \
    { TYPE; NEED(size, INVALID_ARGUMENT); OPTIONAL_TEXT(to, *size, value); return leave(OK); }

TELL_TEXT(nvmlVgpuTypeGetName, type->name)
TELL_TEXT(nvmlVgpuTypeGetClass, type->klass)
TELL(u64, nvmlVgpuTypeGetFramebufferSize, type->memory_mib << 20)
TELL(u32, nvmlVgpuTypeGetMaxInstancesPerVm, type->per_vm)
TELL(u32, nvmlVgpuTypeGetGpuInstanceProfileId, type->gi_profile)
TELL(u32, nvmlVgpuTypeGetNumDisplayHeads, strcmp(type->klass, "Compute") ? 4 : 1)
TELL(u32, nvmlVgpuTypeGetFrameRateLimit, 60)

EXPORT int nvmlVgpuTypeGetLicense(u32 id, char *to, u32 size)
{
    TYPE;
    OPTIONAL_TEXT(to, size, "NVIDIA-Virtual-Compute-Server,9.0");
    return leave(OK);
}

EXPORT int nvmlVgpuTypeGetResolution(u32 id, u32 display, u32 *x, u32 *y)
{
    TYPE;
    NEED(x && y && !display, INVALID_ARGUMENT);
    *x = 4096;
    *y = 2160;
    return leave(OK);
}

EXPORT int nvmlVgpuTypeGetDeviceID(u32 id, u64 *device, u64 *subsystem)
{
    TYPE;
    NEED(device && subsystem, INVALID_ARGUMENT);
    *device = cards[0].pci_id;
    *subsystem = id;
    return leave(OK);
}

EXPORT int nvmlVgpuTypeGetMaxInstances(handle_t *h, u32 id, u32 *to)
{
    ENTER;
    WHOLE_CARD;
    type_t *type = type_of(card, id);
    NEED(to && type, INVALID_ARGUMENT);
    *to = now->mixed && type->places && type->places < type->max ? type->places : type->max;
    return leave(OK);
}

typedef struct { u32 version, type, most; } most_t;
_Static_assert(sizeof(most_t) == 12, "nvmlVgpuTypeMaxInstance_v1_t");

EXPORT int nvmlVgpuTypeGetMaxInstancesPerGpuInstance(most_t *to)
{
    ENTER;
    NEED(to, INVALID_ARGUMENT);
    NEED(to->version == (sizeof *to | 1u << 24), VERSION_MISMATCH);
    type_t *type = type_by_id(to->type);
    NEED(type, INVALID_ARGUMENT);
    NEED(type->gi_profile != NO_PROFILE, NOT_SUPPORTED);
    to->most = type->per_gi;
    return leave(OK);
}

typedef struct { u32 version, mode; } mixed_t;

EXPORT int nvmlDeviceGetVgpuHeterogeneousMode(handle_t *h, mixed_t *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(to, INVALID_ARGUMENT);
    NEED(to->version == (sizeof *to | 1u << 24), VERSION_MISMATCH);
    NEED(card->host_vgpu >= 0, NOT_SUPPORTED);
    to->mode = now->mixed;
    return leave(OK);
}

EXPORT int nvmlDeviceSetVgpuHeterogeneousMode(handle_t *h, const mixed_t *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(to && to->mode <= 1, INVALID_ARGUMENT);
    NEED(to->version == (sizeof *to | 1u << 24), VERSION_MISMATCH);
    NEED(card->host_vgpu >= 0, NOT_SUPPORTED);
    ROOT;
    for (u32 v = 0; v < VGPUS; v++)
        NEED(!now->vgpu[v].used, IN_USE);
    now->mixed = to->mode;
    return leave(OK);
}

typedef struct { u32 version, size, count; u32 *ids; u32 mode; } places2_t;
_Static_assert(sizeof(places2_t) == 32, "nvmlVgpuPlacementList_v2_t");
enum { PLACES_V1 = 24 | 1 << 24, PLACES_V2 = 32 | 2 << 24 };

static int tell_places(handle_t *h, u32 id, places2_t *to, int creatable)
{
    card_t *card = &cards[h->card];
    card_state_t *now = &state->card[h->card];
    type_t *type = type_of(card, id);
    u64 used = 0;
    if (!to || !type)
        return INVALID_ARGUMENT;
    if (to->version != PLACES_V1 && to->version != PLACES_V2)
        return VERSION_MISMATCH;
    if (card->host_vgpu < 0 || !type->places || (creatable && !now->mixed))
        return NOT_SUPPORTED;
    if (to->version == PLACES_V2 && to->count < type->places)
        return INSUFFICIENT_SIZE;
    for (u32 v = 0; creatable && v < VGPUS; v++)
        if (now->vgpu[v].used)
            used |= mask(now->vgpu[v].start, type_of(card, now->vgpu[v].type)->size);
    to->size = type->size;
    to->count = 0;
    for (u32 i = 0; i < type->places; i++)
        if (!(used & mask(type->starts[i], type->size)))
            to->ids[to->count++] = type->starts[i];
    return OK;
}

EXPORT int nvmlDeviceGetVgpuTypeSupportedPlacements(handle_t *h, u32 id, places2_t *to)
{
    ENTER;
    WHOLE_CARD;
    return leave(tell_places(h, id, to, 0));
}

EXPORT int nvmlDeviceGetVgpuTypeCreatablePlacements(handle_t *h, u32 id, places2_t *to)
{
    ENTER;
    WHOLE_CARD;
    return leave(tell_places(h, id, to, 1));
}

typedef struct { u32 version, count; u32 *ids; } ids_t;
_Static_assert(sizeof(ids_t) == 16, "nvmlVgpuTypeIdInfo_v1_t");

EXPORT int nvmlGpuInstanceGetCreatableVgpus(handle_t *h, ids_t *to)
{
    ENTER;
    GI;
    NEED(to, INVALID_ARGUMENT);
    NEED(to->version == (sizeof *to | 1u << 24), VERSION_MISMATCH);
    u32 room = to->count, found = 0;
    for (u32 t = 0; t < card->types; t++) {
        type_t *type = &card->type[t];
        if (type->gi_profile != gi->profile || inside(card, now, gi->id + 1, type->memory_mib) >= type->per_gi)
            continue;
        if (found < room && to->ids)
            to->ids[found] = type->id;
        found++;
    }
    to->count = found;
    return leave(found > room ? INSUFFICIENT_SIZE : OK);
}

EXPORT int nvmlGpuInstanceGetActiveVgpus(handle_t *h, ids_t *to)
{
    ENTER;
    GI;
    NEED(to, INVALID_ARGUMENT);
    NEED(to->version == (sizeof *to | 1u << 24), VERSION_MISMATCH);
    u32 room = to->count, found = 0;
    for (u32 v = 0; v < VGPUS; v++)
        if (now->vgpu[v].used && now->vgpu[v].gi == gi->id + 1) {
            if (found < room && to->ids)
                to->ids[found] = now->vgpu[v].id;
            found++;
        }
    to->count = found;
    return leave(found > room ? INSUFFICIENT_SIZE : OK);
}

/* --- vGPUs that run ---------------------------------------------------------------------------- */

static vgpu_t *vgpu_by_id(u32 id)
{
    for (u32 c = 0; c < card_count; c++)
        for (u32 v = 0; v < VGPUS; v++)
            if (state->card[c].vgpu[v].used && state->card[c].vgpu[v].id == id)
                return &state->card[c].vgpu[v];
    return NULL;
}

#define RUNNING ENTER; vgpu_t *vgpu = vgpu_by_id(id); NEED(vgpu, NOT_FOUND)

EXPORT int nvmlVgpuInstanceGetUUID(u32 id, char *to, u32 size)
{
    RUNNING;
    OPTIONAL_TEXT(to, size, vgpu->uuid);
    return leave(OK);
}

EXPORT int nvmlVgpuInstanceGetMdevUUID(u32 id, char *to, u32 size)
{
    RUNNING;
    OPTIONAL_TEXT(to, size, vgpu->uuid);
    return leave(OK);
}

EXPORT int nvmlVgpuInstanceGetVmID(u32 id, char *to, u32 size, u32 *kind)
{
    RUNNING;
    NEED(kind, INVALID_ARGUMENT);
    *kind = 1;
    OPTIONAL_TEXT(to, size, vgpu->uuid);
    return leave(OK);
}

EXPORT int nvmlVgpuInstanceGetType(u32 id, u32 *to)
{
    RUNNING;
    NEED(to, INVALID_ARGUMENT);
    *to = vgpu->type;
    return leave(OK);
}

EXPORT int nvmlVgpuInstanceGetGpuInstanceId(u32 id, u32 *to)
{
    RUNNING;
    NEED(to, INVALID_ARGUMENT);
    *to = vgpu->gi ? vgpu->gi - 1 : NO_PROFILE;
    return leave(OK);
}

EXPORT int nvmlDeviceGetVgpuCapabilities(handle_t *h, u32 capability, u32 *to)
{
    ENTER;
    WHOLE_CARD;
    NEED(to, INVALID_ARGUMENT);
    NEED(card->host_vgpu >= 0, NOT_SUPPORTED);
    *to = capability <= 1;
    return leave(OK);
}

/* --- what happens around the library ----------------------------------------------------------- */

static int start_vgpu(u32 c, u32 type_id)
{
    card_t *card = &cards[c];
    card_state_t *now = &state->card[c];
    type_t *type = type_of(card, type_id);
    u32 gi, start;
    if (!type)
        return INVALID_ARGUMENT;
    if (!room_for(card, now, type, &gi, &start))
        return INSUFFICIENT_RESOURCES;
    for (u32 v = 0; v < VGPUS; v++)
        if (!now->vgpu[v].used) {
            vgpu_t *vgpu = &now->vgpu[v];
            *vgpu = (vgpu_t){.used = 1, .id = 3251634000u + state->next_vgpu++, .type = type_id, .gi = gi, .start = start};
            snprintf(vgpu->uuid, sizeof vgpu->uuid, "00000000-0000-4000-8000-%012x", vgpu->id);
            return OK;
        }
    return INSUFFICIENT_RESOURCES;
}

static int hold(card_state_t *now, u32 id, u32 held)
{
    for (u32 g = 0; g < INSTANCES; g++)
        if (now->gi[g].used && now->gi[g].id == id) {
            now->gi[g].held = held;
            return OK;
        }
    return NOT_FOUND;
}

static void restart(u32 c)
{
    card_state_t *now = &state->card[c];
    u32 mode = cards[c].keeps_mode ? now->pending : 0;
    memset(now, 0, sizeof *now);
    now->mode = now->pending = mode;
}

EXPORT int stand_in(const char *what, u32 c, u32 value)
{
    pthread_mutex_lock(&mutex);
    int code = load();
    if (!code && c >= CARDS)
        code = INVALID_ARGUMENT;
    if (code) {
        pthread_mutex_unlock(&mutex);
        return code;
    }
    flock(state_file, LOCK_EX);
    card_state_t *now = &state->card[c];
    if (!strcmp(what, "reboot")) {
        for (u32 i = 0; i < card_count; i++)
            restart(i);
        state->boots++;
    } else if (!strcmp(what, "reset")) {
        wipe(now);
        now->mode = now->pending;
    } else if (!strcmp(what, "vfs")) {
        wipe(now);      /* the driver is bound again */
        now->vfs = value;
    } else if (!strcmp(what, "clients")) {
        now->clients = value;
    } else if (!strcmp(what, "lost")) {
        now->lost = value;
    } else if (!strcmp(what, "unprivileged")) {
        state->unprivileged = value;
    } else if (!strcmp(what, "no_driver")) {
        state->no_driver = value;
    } else if (!strcmp(what, "hold") || !strcmp(what, "release")) {
        code = hold(now, value, what[0] == 'h');
    } else if (!strcmp(what, "vgpu")) {
        code = start_vgpu(c, value);
    } else if (!strcmp(what, "stop_vgpus")) {
        memset(now->vgpu, 0, sizeof now->vgpu);
    } else {
        code = INVALID_ARGUMENT;
    }
    return leave(code);
}
