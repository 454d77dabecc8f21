/* The compiled core: the usual case of a call, for CPython's limited API.
 *
 * It is optional: every function here has a twin in pure Python. The twin handles all cases that this file does not
 * handle, and it runs alone if nothing was compiled. The same tests check both.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <structmember.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static uint32_t read_u32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}
static void write_u32(unsigned char *at, uint32_t value) {
    for (int shift = 24; shift >= 0; shift -= 8) *at++ = (unsigned char)(value >> shift);
}
static unsigned char *write_bytes(unsigned char *at, const void *data, Py_ssize_t size) {
    memcpy(at, data, (size_t)size);
    return at + size;
}
/* The bytes of an object that is known to be a bytes object. */
static const unsigned char *raw(PyObject *bytes) { return (const unsigned char *)PyBytes_AsString(bytes); }
static PyObject *slice(const unsigned char *data, Py_ssize_t start, Py_ssize_t end) {
    return PyBytes_FromStringAndSize((const char *)data + start, end - start);
}
static int field_is(const unsigned char *at, unsigned char kind, unsigned char number) {
    return at[0] == kind && at[1] == 0 && at[2] == number;
}

/* CRC-64/NVME. */
static uint64_t crc_table[256];
static void fill_crc_table(void) {
    for (int byte = 0; byte < 256; byte++) {
        uint64_t crc = (uint64_t)byte;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x9A6C9329AC4BC9B5ULL : crc >> 1;
        crc_table[byte] = crc;
    }
}
static uint64_t crc64(const unsigned char *data, Py_ssize_t size) {
    uint64_t crc = ~(uint64_t)0;
    for (; size > 0; size--, data++) crc = crc_table[(crc ^ *data) & 0xFF] ^ crc >> 8;
    return ~crc;
}
static PyObject *core_crc64(PyObject *self, PyObject *data) {
    if (!PyBytes_Check(data)) return PyErr_Format(PyExc_TypeError, "the argument must be bytes");
    return PyLong_FromUnsignedLongLong(crc64(raw(data), PyBytes_Size(data)));
}

/* Return the size of an argument: field 1 is the encoded key as a blob, or with a value an update_request. */
static Py_ssize_t argument_size(PyObject *hash_key, PyObject *sort_key, PyObject *value) {
    return PyBytes_Size(hash_key) + PyBytes_Size(sort_key) + (value ? 28 + PyBytes_Size(value) : 10);
}
static void write_argument(unsigned char *at, PyObject *hash_key, PyObject *sort_key, PyObject *value, int expire) {
    Py_ssize_t first = PyBytes_Size(hash_key), second = PyBytes_Size(sort_key);
    at = write_bytes(at, "\x0c\0\1\x0c\0\1", value ? 6 : 3);
    write_u32(at, (uint32_t)(2 + first + second));
    at[4] = (unsigned char)(first >> 8);
    at[5] = (unsigned char)first;
    at = write_bytes(write_bytes(at + 6, raw(hash_key), first), raw(sort_key), second);
    *at = 0;
    if (value == NULL) return;
    at = write_bytes(at, "\x0c\0\2", 3);
    write_u32(at, (uint32_t)PyBytes_Size(value));
    at = write_bytes(write_bytes(at + 4, raw(value), PyBytes_Size(value)), "\x08\0\3", 3);
    write_u32(at, (uint32_t)expire);
    at[4] = at[5] = 0;
}

/* argument(hash_key, sort_key[, value, expire_ts]) */
static PyObject *core_argument(PyObject *self, PyObject *args) {
    PyObject *hash_key, *sort_key, *value = NULL;
    int expire = 0;
    if (!PyArg_ParseTuple(args, "SS|Si", &hash_key, &sort_key, &value, &expire)) return NULL;
    Py_ssize_t size = argument_size(hash_key, sort_key, value);
    if (PyBytes_Size(hash_key) > 0xFFFF || size > 0x7FFFFF00)
        return PyErr_Format(PyExc_OverflowError, "a key or the value is too large");
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made != NULL) write_argument((unsigned char *)PyBytes_AsString(made), hash_key, sort_key, value, expire);
    return made;
}

/* ------------------------------------------------------------------------------------------------------ the replies */

/* Return the size of the usual reply that begins here; 0 for another kind or an incomplete one. */
static Py_ssize_t usual_reply(const unsigned char *at, Py_ssize_t have, Py_ssize_t largest, int *seqid) {
    if (have < 26) return 0;
    Py_ssize_t size = (int32_t)read_u32(at), name = (int32_t)read_u32(at + 18);
    if (size > have || size > largest || name < 1 || name > 255 || size < 26 + name) return 0;
    if (memcmp(at + 4, "\0\0\0\6ERR_OK\x80\1\0\2", 14)) return 0;
    *seqid = (int)read_u32(at + 22 + name);
    return size;
}

/* Append the usual replies as (sequence id, frame); return the position of the first other or incomplete one, or -1. */
static Py_ssize_t cut(const unsigned char *data, Py_ssize_t pos, Py_ssize_t end, Py_ssize_t largest, PyObject *frames) {
    int seqid;
    for (Py_ssize_t size; (size = usual_reply(data + pos, end - pos, largest, &seqid)) > 0; pos += size) {
        PyObject *frame = slice(data, pos, pos + size);
        PyObject *pair = frame == NULL ? NULL : Py_BuildValue("(iN)", seqid, frame);
        if (pair != NULL) PyObject_GC_UnTrack(pair);
        int failed = pair == NULL || PyList_Append(frames, pair) < 0;
        Py_XDECREF(pair);
        if (failed) return -1;
    }
    return pos;
}

/* cut(data, pos, largest, frames) */
static PyObject *core_cut(PyObject *self, PyObject *args) {
    PyObject *data, *frames;
    Py_ssize_t pos, largest;
    if (!PyArg_ParseTuple(args, "SnnO!", &data, &pos, &largest, &PyList_Type, &frames)) return NULL;
    pos = cut(raw(data), pos, PyBytes_Size(data), largest, frames);
    return pos < 0 ? NULL : PyLong_FromSsize_t(pos);
}

/* cut_rows(data, pos, count, skip, with_expiry, rows): append the rows of a multi_get or scan, see rows.py.
 * skip < 0: the keys are encoded and are split. Return the position of the last row's STOP; -1: unusual layout. */
static PyObject *core_cut_rows(PyObject *self, PyObject *args) {
    PyObject *bytes, *list;
    Py_ssize_t pos, rows, skip;
    int expiry;
    if (!PyArg_ParseTuple(args, "SnnnpO!", &bytes, &pos, &rows, &skip, &expiry, &PyList_Type, &list)) return NULL;
    const unsigned char *data = raw(bytes);
    Py_ssize_t end = PyBytes_Size(bytes);
    for (Py_ssize_t row = 0; row < rows; row++, pos += expiry ? 7 : 0) {
        /* The byte before: the STOP of the previous row, or the last byte of the count. */
        if (end - pos < 8 || !field_is(data + pos + 1, 12, 1) || (row && data[pos])) return PyLong_FromLong(-1);
        Py_ssize_t start = pos + 8, size = read_u32(data + pos + 4), middle = start + (skip < 0 ? 0 : skip);
        if (size > end - start - 7 || (skip < 0 && size < 2)) return PyLong_FromLong(-1);
        Py_ssize_t stop = start + size;
        if (skip < 0) middle = start + 2 + (data[start] << 8 | data[start + 1]);
        if (middle > stop || !field_is(data + stop, 12, 2)) return PyLong_FromLong(-1);
        Py_ssize_t value = stop + 7, length = read_u32(data + stop + 3);
        if (length < 0 || length > end - value) return PyLong_FromLong(-1);
        pos = value + length;
        if (expiry && (end - pos < 7 || !field_is(data + pos, 8, 3))) return PyLong_FromLong(-1);
        PyObject *made = PyTuple_New((skip < 0) + 2 + expiry);
        if (made == NULL) return NULL;
        if (skip < 0) PyTuple_SetItem(made, 0, slice(data, start + 2, middle));
        PyTuple_SetItem(made, skip < 0, slice(data, middle, stop));
        PyTuple_SetItem(made, (skip < 0) + 1, slice(data, value, pos));
        if (expiry) PyTuple_SetItem(made, (skip < 0) + 2, PyLong_FromLong((int)read_u32(data + pos + 3)));
        int failed = PyErr_Occurred() || PyList_Append(list, made) < 0;
        Py_DECREF(made);
        if (failed) return NULL;
    }
    return PyLong_FromSsize_t(pos);
}

/* --------------------------------------------------------------------------------------------------------- objects */

#define METHOD(function) (PyCFunction)(void (*)(void))function

/* Names of attributes and methods that each call uses. */
#define NAMES(X) \
    X(abandon) X(bytes_received) X(bytes_sent) X(connection) X(finished) X(header_part) X(ids) X(interrupted) X(late) \
    X(peer) X(gr_context) X(loop) X(outcomes) X(pending) X(primary) X(received) X(ref) X(shape) X(switch) X(table) \
    X(targets) X(wake_at) X(way)
#define NAME_ONE(name) static PyObject *name_##name;
#define FILL_ONE(name) if ((name_##name = PyUnicode_InternFromString(#name)) == NULL) return -1;
NAMES(NAME_ONE)
#define IS_SET(object) ((object) != NULL && (object) != Py_None)
#define IS_EMPTY(dict) ((dict) == NULL || PyDict_Size(dict) == 0)

/* Release references; NULL is ignored. */
#define RELEASE(...) release((PyObject *[]){__VA_ARGS__}, sizeof((PyObject *[]){__VA_ARGS__}) / sizeof(PyObject *))
static void release(PyObject **objects, size_t count) {
    while (count > 0) Py_XDECREF(objects[--count]);
}

/* The macro that returns None is not used: built by 3.12 or newer it counts no reference, which crashes older ones. */
static int done(PyObject *returned) { return RELEASE(returned), returned == NULL ? -1 : 0; }

/* An exception that is stored while other code runs. */
typedef struct { PyObject *type, *value, *traceback; } Raised;
static Raised put_aside(void) {
    Raised error;
    PyErr_Fetch(&error.type, &error.value, &error.traceback);
    PyErr_NormalizeException(&error.type, &error.value, &error.traceback);
    if (error.traceback != NULL) PyException_SetTraceback(error.value, error.traceback);
    return error;
}
static void forget(Raised *error) { RELEASE(error->type, error->value, error->traceback); }

/* Clean up after an exception, by default the method's first argument; a newer exception replaces it. */
static void clean_up(void *owner, PyObject *method, PyObject *first, PyObject *second) {
    Raised error = put_aside();
    for (int attempt = 0; attempt < 2; attempt++) {
        if (done(PyObject_CallMethodObjArgs(owner, method, first ? first : error.value, second, NULL)) == 0) break;
        forget(&error);
        error = put_aside();
    }
    PyErr_Restore(error.type, error.value, error.traceback);
}

/* Add to a counter of an object; return 0, because a counter must not make a call fail. */
static int count(PyObject *owner, PyObject *name, Py_ssize_t more, binaryfunc get, objobjargproc set) {
    PyObject *known = get(owner, name), *step = known == NULL ? NULL : PyLong_FromSsize_t(more);
    PyObject *sum = step == NULL ? NULL : PyNumber_Add(known, step);
    if (sum == NULL || set(owner, name, sum) < 0) PyErr_Clear();
    return RELEASE(known, step, sum), 0;
}
#define COUNT(owner, name, more) count(owner, name, more, PyObject_GetAttr, PyObject_SetAttr)

static double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A page that the kernel fills with zeros in a child process, see fork.py. */
static volatile unsigned char *own_page;
static int in_parent(void) { return own_page != NULL && *own_page; }

/* page(): its first bytes as a memoryview; None if the system does not support it. */
static PyObject *core_page(PyObject *self, PyObject *unused) {
#ifdef MADV_WIPEONFORK
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made != MAP_FAILED && madvise(made, size, MADV_WIPEONFORK) == 0) {
        *(own_page = made) = 1;
        return PyMemoryView_FromMemory(made, 8, 0x200); /* PyBUF_WRITE, which is not in the limited API of 3.10 */
    }
#endif
    return Py_NewRef(Py_None);
}

/* greenlet's C interface, with the numbers of its header; the first call loads it. */
static void **greenlet_api;
#define greenlet_current ((PyObject * (*)(void)) greenlet_api[4])
#define greenlet_switch ((PyObject * (*)(PyObject *, PyObject *, PyObject *)) greenlet_api[6])
#define greenlet_parent ((PyObject * (*)(PyObject *)) greenlet_api[11])

static int load_greenlet(void) {
    if (greenlet_api == NULL && done(PyImport_ImportModule("greenlet")) == 0)
        greenlet_api = PyCapsule_Import("greenlet._C_API", 0);
    return greenlet_api == NULL ? -1 : 0;
}

/* The waiting place of one call. The hub wakes a greenlet only while it is suspended in slot_get, where no bytecode can
 * run. An outcome that comes earlier is stored; one that comes later is dropped. */
typedef struct {
    PyObject_HEAD
    PyObject *greenlet; /* suspended in slot_get, or NULL */
    PyObject *outcome;  /* arrived and not yet taken */
    const char *near;   /* an address in the stack of the caller */
    char delivered;
} Slot;
static PyTypeObject *slot_type, *books_type;
static Slot *slot_new(const char *near) {
    Slot *made = PyObject_New(Slot, slot_type);
    if (made == NULL) return NULL;
    made->greenlet = made->outcome = NULL;
    made->delivered = 0, made->near = near;
    return made;
}
static void slot_free(Slot *self) {
    PyTypeObject *type = Py_TYPE(self);
    RELEASE(self->greenlet, self->outcome);
    PyObject_Free(self);
    Py_DECREF(type);
}
static PyObject *slot_get(Slot *self, PyObject *hub) {
    if (self->outcome == NULL) {
        PyObject *woken = NULL;
        self->greenlet = greenlet_current();
        if (self->greenlet != NULL) woken = greenlet_switch(hub, NULL, NULL);
        Py_CLEAR(self->greenlet);
        if (woken == NULL || self->outcome == NULL) return woken;
        Py_DECREF(woken);
    }
    PyObject *outcome = self->outcome;
    return self->outcome = NULL, outcome;
}
static PyObject *slot_switch(Slot *self, PyObject *outcome) {
    Py_CLEAR(self->outcome);
    self->outcome = Py_NewRef(outcome);
    self->delivered = 1;
    if (self->greenlet == NULL) return Py_NewRef(Py_None);
    PyObject *waiting = Py_NewRef(self->greenlet), *back = greenlet_switch(waiting, NULL, NULL);
    return RELEASE(waiting), back;
}

static PyMethodDef slot_methods[] = {
    {"switch", METHOD(slot_switch), METH_O, "switch(outcome): deliver it, in the hub"}, {NULL, NULL, 0, NULL},
};
static PyType_Slot slot_slots[] = {{Py_tp_dealloc, slot_free}, {Py_tp_methods, slot_methods}, {0, NULL}};
static PyType_Spec slot_spec = {"pegasus_green._core.Slot", sizeof(Slot), 0, Py_TPFLAGS_DEFAULT, slot_slots};

/* ----------------------------------------------------------------------------------------------------- a connection */

/* Base of the connection's class: frequently used attributes are read without a look-up. Names as in Python. */
typedef struct {
    PyObject_HEAD
    PyObject *session, *peer, *pending, *_out, *_backlog, *_leaving, *lost, *_room, *_keeper, *_chunk, *_flush_callback;
    double _wake_at, _timer_at, heard, silent_since;
    Py_ssize_t _small, _share, _max_in_flight, _max_frame, _out_bytes;
    int _version, _fd;
    char _crowded, _in_pass, _has_read, _referenced, _plain;
} Books;
#define BOOKS_REFERENCES(X) \
    X(session) X(peer) X(pending) X(_out) X(_backlog) X(_leaving) X(lost) X(_room) X(_keeper) X(_chunk) \
    X(_flush_callback)
static const double TICK = 0.25;
enum { FRAMES_A_CHECK = 32, AHEAD = 16, MANY = 1000 }; /* the first and TICK as in connection.py */

/* Continue in Python, which handles all cases. */
static int otherwise(Books *self, const char *name) { return done(PyObject_CallMethod((PyObject *)self, name, NULL)); }

/* write_by(function): for tests, function(fd, data) replaces the system call; None: the kernel. */
static PyObject *writer;
static PyObject *core_write_by(PyObject *self, PyObject *function) {
    Py_CLEAR(writer);
    if (function != Py_None) writer = Py_NewRef(function);
    return Py_NewRef(Py_None);
}
static Py_ssize_t write_some(int fd, PyObject *data) {
    if (writer == NULL) return send(fd, raw(data), (size_t)PyBytes_Size(data), MSG_DONTWAIT | MSG_NOSIGNAL);
    PyObject *size = PyObject_CallFunction(writer, "iO", fd, data);
    Py_ssize_t sent = size == NULL ? -1 : PyLong_AsSsize_t(size);
    PyErr_Clear();
    return Py_XDECREF(size), sent;
}
static int under_way(Books *self) { return IS_SET(self->_leaving) || IS_SET(self->lost) || !IS_EMPTY(self->_backlog); }

/* Send all collected frames. No bytecode runs between the system call and the storage of its result. */
static int flush(Books *self) {
    PyObject *seqid, *frame;
    Py_ssize_t pos = 0, size = 0, sent = -1;
    self->_has_read = 0;
    int usual = !self->_out_bytes && in_parent() && !under_way(self) && !IS_EMPTY(self->_out);
    while (usual && PyDict_Next(self->_out, &pos, &seqid, &frame))
        if ((usual = PyBytes_CheckExact(frame))) size += PyBytes_Size(frame);
    PyObject *data = usual ? PyBytes_FromStringAndSize(NULL, size) : NULL;
    unsigned char *at = data == NULL ? NULL : (unsigned char *)PyBytes_AsString(data);
    for (pos = 0; at != NULL && PyDict_Next(self->_out, &pos, &seqid, &frame);)
        at = write_bytes(at, raw(frame), PyBytes_Size(frame));
    if (data != NULL) sent = write_some(self->_fd, data);
    if (sent >= 0 && sent < size) {
        int collects = PyGC_Disable(); /* a finalizer could make a call, which would find these frames unsent */
        PyObject *frames = PyDict_Copy(self->_out), *before = self->_leaving;
        PyObject *noted = frames == NULL ? NULL : Py_BuildValue("(N[O][n])", frames, data, sent);
        if (noted != NULL) self->_leaving = noted, RELEASE(before);
        if (collects) PyGC_Enable();
        if (noted == NULL) clean_up(self, name_interrupted, NULL, NULL);
    }
    Py_XDECREF(data);
    if (sent < 0) return PyErr_Occurred() ? -1 : otherwise(self, "_flush");
    PyDict_Clear(self->_out);
    if (sent < size) return PyErr_Occurred() ? -1 : otherwise(self, "_settle");
    COUNT(self->peer, name_bytes_sent, sent);
    return self->_crowded ? otherwise(self, "_make_room") : 0;
}

/* Make the hub flush after it has read the sockets that are ready now. Some event loops run Python for `pending`. */
static int flush_soon(Books *self) {
    PyObject *due = IS_SET(self->_flush_callback) ? PyObject_GetAttr(self->_flush_callback, name_pending) : NULL;
    return RELEASE(due), PyErr_Occurred() ? -1 : due == Py_True ? 0 : otherwise(self, "_flush_soon");
}

/* Send a frame now if nothing else is in progress; otherwise collect it. */
static int send_one(Books *self, PyObject *seqid, PyObject *frame) {
    if (under_way(self) || PyBytes_Size(frame) > self->_small)
        return done(PyObject_CallMethod((PyObject *)self, "_send", "OO", seqid, frame));
    int alone = IS_EMPTY(self->_out) && PyDict_Size(self->pending) <= 1;
    if (PyDict_SetItem(self->_out, seqid, frame) < 0) return -1;
    return self->_in_pass ? 0 : alone ? flush(self) : flush_soon(self);
}

/* Make the timer check the deadline of a call, and keep the loop alive: the usual case of Connection._wake. */
static int watch(Books *self, double deadline, double now) {
    if (deadline >= self->_wake_at) return 0;
    double at = deadline < now + TICK ? deadline : now + TICK;
    if (!IS_SET(self->_keeper) || IS_SET(self->lost) || self->_timer_at > at)
        return done(PyObject_CallMethod((PyObject *)self, "_wake", "dd", deadline, now));
    if (!self->_referenced) {
        if (self->silent_since == 0.0) self->silent_since = now;
        if (PyObject_SetAttr(self->_keeper, name_ref, Py_True) < 0) return -1;
        self->_referenced = 1;
    }
    self->_wake_at = self->_timer_at;
    return 0;
}

/* Store the outcome of a request of a bulk verb, (window, index). Return 0 if its method must do it, which can wake. */
static int store(PyObject *taker, PyObject *outcome) {
    PyObject *window = PyTuple_GetItem(taker, 0), *index = PyTuple_GetItem(taker, 1);
    PyObject *known = PyObject_GetAttr(window, name_outcomes), *wake_at = PyObject_GetAttr(window, name_wake_at);
    int stored = known != NULL && wake_at != NULL && (double)PyDict_Size(known) + 1 < PyFloat_AsDouble(wake_at) &&
                 !PyDict_Contains(known, index) && PyDict_SetItem(known, index, outcome) == 0;
    return PyErr_Clear(), RELEASE(known, wake_at), stored;
}

/* Deliver a reply, (sequence id, frame), to its taker; return -1 for an exception. */
static int hand_over(Books *self, PyObject *pending, PyObject *pair) {
    PyObject *seqid = PyTuple_GetItem(pair, 0), *frame = PyTuple_GetItem(pair, 1);
    PyObject *entry = PyDict_GetItemWithError(pending, seqid), *taker = entry ? PyTuple_GetItem(entry, 0) : NULL;
    if (taker == NULL) return PyErr_Occurred() ? -1 : COUNT(self->peer, name_late, 1);
    PyObject *context = PyTuple_GetItem(entry, 3), *is_in = context;
    /* A greenlet that is not in the context of the call waits for something else, see handover.py. */
    if (context != Py_None) Py_XDECREF(is_in = PyObject_GetAttr(taker, name_gr_context));
    if (is_in == NULL) return -1;
    if (is_in != context) return done(PyObject_CallMethod((PyObject *)self, "_park", "OO", seqid, frame));
    Py_INCREF(entry);
    int failed = PyDict_DelItem(pending, seqid) < 0               ? -1
                 : Py_TYPE(taker) == slot_type ? done(slot_switch((Slot *)taker, frame))
                 : PyTuple_Check(taker) && store(taker, frame) ? 0
                                               : done(PyObject_CallMethodObjArgs(taker, name_switch, frame, NULL));
    if (failed) {
        Raised error = put_aside();
        failed = done(PyObject_CallMethod((PyObject *)self, "_hand_again", "OOO(OOO)", seqid, entry, frame, error.type,
                                          error.value, error.traceback ? error.traceback : Py_None));
        forget(&error);
        if (failed) PyDict_SetItem(pending, seqid, entry); /* interrupted twice: the end of the connection wakes it */
    }
    Py_DECREF(entry);
    return failed;
}

/* Load the tops of the stacks of the next callers: if there are thousands of callers, no cache holds them all. */
static void prefetch(PyObject *frames, Py_ssize_t at, PyObject *pending) {
    for (Py_ssize_t end = at + AHEAD; at < end && at < PyList_Size(frames); at++) {
        PyObject *entry = PyDict_GetItemWithError(pending, PyTuple_GetItem(PyList_GetItem(frames, at), 0));
        PyObject *taker = entry ? PyTuple_GetItem(entry, 0) : NULL;
        for (int line = -6; taker != NULL && Py_TYPE(taker) == slot_type && line < 2; line++)
            __builtin_prefetch(((Slot *)taker)->near + 64 * line);
    }
}
static int deliver(Books *self, PyObject *frames, PyObject *pending) {
    for (Py_ssize_t at = 0; at < PyList_Size(frames); at++) {
        if (at % AHEAD == 0 && PyDict_Size(pending) > MANY) prefetch(frames, at, pending);
        /* The caller that was woken last may have forked in C, and this is the child. */
        if (own_page != NULL && !*own_page && otherwise(self, "notice_fork") < 0) return -1;
        if (hand_over(self, pending, PyList_GetItem(frames, at)) < 0) return -1;
    }
    return 0;
}
static PyObject *books_deliver(Books *self, PyObject *args) {
    PyObject *frames, *pending;
    if (!PyArg_ParseTuple(args, "O!O!", &PyList_Type, &frames, &PyDict_Type, &pending)) return NULL;
    return deliver(self, frames, pending) < 0 ? NULL : Py_NewRef(Py_None);
}

/* The end of a pass of the reader: silence, keep-alive of the loop, callers that wait for room, the next requests. */
static int after_pass(Books *self, Py_ssize_t delivered) {
    if (IS_SET(self->lost)) return 0;
    int rests = IS_EMPTY(self->pending);
    self->silent_since = rests ? 0.0 : self->heard;
    if (rests && self->_referenced) {
        self->_wake_at = HUGE_VAL;
        self->_referenced = 0;
        if (PyObject_SetAttr(self->_keeper, name_ref, Py_False) < 0) return -1;
    }
    if (IS_SET(self->_room) && otherwise(self, "_make_room") < 0) return -1;
    if (IS_EMPTY(self->_out)) return 0;
    self->_has_read = 1;
    /* Some callers continued at other servers, whose replies may be here, too: one write for all. */
    return PyDict_Size(self->_out) >= delivered ? flush(self) : flush_soon(self);
}

/* arrived(): the callback of the read watcher. It handles the usual case: some complete replies of the usual kind.
 * Everything else goes to _readable, with the bytes that were read. */
static PyObject *books_arrived(Books *self, PyObject *unused) {
    if (!in_parent() || !self->_plain || IS_SET(self->lost) || !IS_SET(self->_keeper))
        return PyObject_CallMethod((PyObject *)self, "_readable", NULL);
    unsigned char *data = (unsigned char *)PyByteArray_AsString(self->_chunk);
    Py_ssize_t came = recv(self->_fd, data, (size_t)self->_share, MSG_DONTWAIT), pos = 0, total = 0, size;
    int seqid;
    if (came < 0) came = -errno;
    if (came == -EAGAIN || came == -EWOULDBLOCK || came == -EINTR) return Py_NewRef(Py_None);
    for (; came > 0 && (size = usual_reply(data + pos, came - pos, self->_max_frame, &seqid)) > 0; pos += size) total++;
    if (came <= 0 || pos < came || total > FRAMES_A_CHECK || came == self->_share) {
        PyObject *returned = PyObject_CallMethod((PyObject *)self, "_readable", "n", came);
        if (returned == NULL) clean_up(self, name_interrupted, NULL, NULL);
        return returned;
    }
    self->heard = monotonic();
    COUNT(self->peer, name_bytes_received, came);
    COUNT(self->session, name_received, total);
    PyObject *frames = PyList_New(0), *pending = Py_NewRef(self->pending); /* read once: see poison */
    self->_in_pass = 1;
    int failed = frames == NULL || cut(data, 0, came, self->_max_frame, frames) < 0 || deliver(self, frames, pending);
    self->_in_pass = 0;
    Py_XDECREF(frames);
    Py_DECREF(pending);
    if (!failed && after_pass(self, total) == 0) return Py_NewRef(Py_None);
    clean_up(self, name_interrupted, NULL, NULL);
    return NULL;
}
static PyObject *books_flush(Books *self, PyObject *unused) { return flush(self) < 0 ? NULL : Py_NewRef(Py_None); }

/* ----------------------------------------------------------------------------------------------------- one call */
/* One call in progress. lane (facts of a table), way (current facts of the client) and shape (facts of an RPC) are
 * tuples from dispatcher.py and framing.py. */
typedef struct {
    PyObject *lane, *way, *shape, *hash_key, *sort_key, *value, *argument, *route, *part, *seqid;
    Books *books;
    const char *near;
    uint64_t hash;
    double now, deadline;
    int expire, observed, milliseconds;
} Call;
enum { DISPATCHER, CLUSTER, ROUTES, TABLE, HISTOGRAM, GET, PUT, LARGEST_PUT };
enum { HUB, SCOPES, SECONDS, MILLISECONDS, REPEATS, STARTED };
enum { RPC, LABEL, HEAD, OK_HEAD, BODY_BASE, BODY_OFFSET, REPEATABLE };
enum { BODY_LENGTH = 12, GPID = 16, TIMEOUT = 33, HASH = 40, GPID_SIZE = 17 };
#define PART(of, which) PyTuple_GetItem(call->of, which)
#define NUMBER(of, which) PyLong_AsSsize_t(PART(of, which))
static void count_latency(PyObject *histogram, double seconds) {
    int bucket;
    PyObject *key = (frexp(seconds, &bucket), PyLong_FromLong(bucket));
    count(histogram, key, 1, PyObject_GetItem, PyObject_SetItem); /* it also clears an exception of the line before */
    Py_XDECREF(key);
}
static PyObject *next_id(Books *books) {
    PyObject *ids = PyObject_GetAttr(books->session, name_ids), *seqid = ids == NULL ? NULL : PyIter_Next(ids);
    Py_XDECREF(ids);
    if (seqid != NULL && PyLong_AsLongLong(seqid) <= INT32_MAX && !PyDict_Contains(books->pending, seqid)) return seqid;
    Py_XDECREF(seqid);
    return PyErr_Occurred() ? NULL : PyObject_CallMethod(books->session, "free_id", NULL);
}

static PyObject *make_frame(Call *call) {
    PyObject *head = PART(shape, HEAD), *ready = call->argument;
    Py_ssize_t head_size = PyBytes_Size(head);
    Py_ssize_t size = ready ? PyBytes_Size(ready) : argument_size(call->hash_key, call->sort_key, call->value);
    if (!PyBytes_Check(call->part) || PyBytes_Size(call->part) != GPID_SIZE || size > 0x7FFFFF00)
        return PyErr_Format(PyExc_OverflowError, "a key is too large, or the header part is wrong");
    PyObject *frame = PyBytes_FromStringAndSize(NULL, head_size + size);
    if (frame == NULL) return NULL;
    unsigned char *at = (unsigned char *)PyBytes_AsString(frame), *behind = write_bytes(at, raw(head), head_size);
    if (ready) write_bytes(behind, raw(ready), size);
    else write_argument(behind, call->hash_key, call->sort_key, call->value, call->expire);
    write_u32(at + BODY_LENGTH, (uint32_t)(NUMBER(shape, BODY_BASE) + size));
    write_bytes(at + GPID, raw(call->part), GPID_SIZE);
    write_u32(at + TIMEOUT, (uint32_t)call->milliseconds);
    write_u32(at + HASH, (uint32_t)(call->hash >> 32));
    write_u32(at + HASH + 4, (uint32_t)call->hash);
    write_u32(at + head_size - 4, (uint32_t)PyLong_AsLong(call->seqid));
    return frame;
}

/* Finish a call of listeners. Only exceptions that are not an Exception are passed on. */
static int told(Call *call, const char *event, PyObject *method, PyObject *returned) {
    if (returned == NULL && PyErr_ExceptionMatches(PyExc_Exception)) {
        Raised error = put_aside();
        returned = PyObject_CallMethod(PART(lane, DISPATCHER), "complain", "sOO", event, method, error.value);
        forget(&error);
    }
    return done(returned);
}

/* Call the current listeners at the end of a successful call. */
static int tell_end(Call *call) {
    PyObject *finished = PyObject_GetAttr(PART(lane, CLUSTER), name_finished), *attempts = PyLong_FromLong(1);
    PyObject *server = PyObject_GetAttr(call->route, name_primary);
    PyObject *seconds = PyFloat_FromDouble(call->books->heard - call->now);
    int failed = finished == NULL || attempts == NULL || server == NULL || seconds == NULL ? -1
                 : told(call, "call_finished", finished, PyObject_CallFunctionObjArgs(
                       finished, PART(lane, TABLE), PART(shape, LABEL), seconds, Py_None, attempts, Py_False, server,
                       NULL));
    return RELEASE(finished, attempts, server, seconds), failed;
}

/* Pass the exception that ended a call to Python, which calls the listeners and raises it again; return -1. */
static int fail(Call *call) {
    Raised error = put_aside();
    int failed = done(PyObject_CallMethod(PART(lane, DISPATCHER), "fail", "OdOO", PART(shape, RPC), call->now,
                                          error.value, call->route));
    return forget(&error), failed;
}

/* Continue in Python with an unusual outcome; None: nothing was sent. */
static PyObject *rest_of_call(Call *call, PyObject *outcome) {
    return PyObject_CallMethod(PART(lane, DISPATCHER), "rest_of_call", "OKOOOiddOOOOi", PART(shape, RPC),
                               (unsigned long long)call->hash, call->hash_key, call->sort_key,
                               call->value ? call->value : Py_None, call->expire, call->now, call->deadline, outcome,
                               call->route, call->books, call->seqid ? call->seqid : Py_None, call->observed);
}

static int may_start(Books *self) {
    return !self->_crowded && self->_version == 1 && PyDict_Size(self->pending) < self->_max_in_flight;
}

/* Send a request. No bytecode runs between the storage of the entry and that of the frame, so nothing can interrupt a
 * half-stored request. */
static int post(Call *call, PyObject *taker, PyObject *movable) {
    Books *books = call->books;
    PyObject *frame = NULL, *entry = NULL;
    if ((call->seqid = next_id(books)) != NULL && (frame = make_frame(call)) != NULL)
        entry = Py_BuildValue("(OdOO)", taker, call->deadline, movable, Py_None);
    /* The loop references the connection until it is closed, so the collector need not track this entry. */
    if (entry != NULL) PyObject_GC_UnTrack(entry);
    int posted = entry != NULL && PyDict_SetItem(books->pending, call->seqid, entry) == 0 &&
                 send_one(books, call->seqid, frame) == 0 &&
                 watch(books, call->deadline, call->observed ? monotonic() : call->now) == 0;
    if (!posted && entry != NULL) clean_up(books, name_abandon, call->seqid, taker);
    return RELEASE(frame, entry), posted ? 0 : -1;
}

/* post(rpc, route, partition_hash, argument, deadline, milliseconds, taker, movable): send a request, see
 * Connection.start. Return whether it was sent: Connection.start handles unusual cases. */
static PyObject *books_post(Books *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 8) return PyErr_Format(PyExc_TypeError, "post() takes 8 arguments, not %zd", count);
    Call call = {.books = self, .hash = PyLong_AsUnsignedLongLong(args[2]), .argument = args[3],
                 .deadline = PyFloat_AsDouble(args[4]), .milliseconds = (int)PyLong_AsLong(args[5])};
    if (PyErr_Occurred()) return NULL;
    if (!may_start(self) || !in_parent() || !PyBytes_CheckExact(call.argument)) return Py_NewRef(Py_False);
    call.now = monotonic();
    call.shape = PyObject_GetAttr(args[0], name_shape);
    call.part = PyObject_GetAttr(args[1], name_header_part);
    int failed = call.shape == NULL || call.part == NULL || post(&call, args[6], args[7]) < 0;
    return RELEASE(call.shape, call.part, call.seqid), failed ? NULL : Py_NewRef(Py_True);
}

/* Send a request and wait for its outcome. */
static PyObject *send_and_wait(Call *call) {
    PyObject *outcome = NULL, *ok = PART(shape, OK_HEAD), *first;
    int movable = PART(way, REPEATS) == Py_True && PART(shape, REPEATABLE) == Py_True;
    Slot *slot = slot_new(call->near);
    if (slot != NULL && post(call, (PyObject *)slot, movable ? call->route : Py_None) == 0 &&
        (outcome = slot_get(slot, PART(way, HUB))) == NULL)
        clean_up(call->books, name_abandon, call->seqid, (PyObject *)slot);
    first = outcome;
    if (outcome != NULL && !(slot->delivered && PyBytes_CheckExact(outcome) &&
                             PyBytes_Size(outcome) > NUMBER(shape, BODY_OFFSET) &&
                             memcmp(raw(outcome) + 4, raw(ok), (size_t)PyBytes_Size(ok)) == 0)) {
        outcome = rest_of_call(call, first);
        Py_DECREF(first);
    } else {
        if (outcome != NULL) count_latency(PART(lane, HISTOGRAM), call->books->heard - call->now);
        if (call->observed && (outcome == NULL ? fail(call) : tell_end(call)) < 0) Py_CLEAR(outcome);
    }
    return RELEASE(call->seqid, (PyObject *)slot), outcome;
}

/* Tell whether the hub serves this greenlet: it is the parent, or this is the main greenlet of the hub's thread. */
static int is_served_by(PyObject *hub) {
    PyObject *caller = greenlet_current(), *parent = caller == NULL ? NULL : greenlet_parent(caller);
    PyObject *loop = parent == NULL ? PyObject_GetAttr(hub, name_loop) : NULL; /* None: the hub was destroyed */
    PyObject *above = IS_SET(loop) ? greenlet_parent(hub) : NULL;
    int found = parent == hub || (above != NULL && above == caller);
    return RELEASE(caller, parent, loop, above), found;
}

/* Return a reply's frame; NotImplemented, with nothing sent, unless there are routes, an open connection, no scopes. */
static PyObject *exchange(Call *call) {
    PyObject *table = NULL, *targets = NULL, *peer = NULL, *connection = NULL, *result = NULL;
    call->way = load_greenlet() < 0 ? NULL : PyObject_GetAttr(PART(lane, CLUSTER), name_way);
    if (!IS_SET(call->way) || !IS_EMPTY(PART(way, SCOPES)) || !in_parent() || !is_served_by(PART(way, HUB))) goto end;
    call->now = monotonic();
    call->deadline = call->now + PyFloat_AsDouble(PART(way, SECONDS));
    call->milliseconds = (int)NUMBER(way, MILLISECONDS);
    call->observed = PART(way, STARTED) != Py_None;
    if ((table = PyObject_GetAttr(PART(lane, ROUTES), name_table)) == NULL || table == Py_None ||
        (targets = PyObject_GetAttr(table, name_targets)) == NULL || !PyTuple_Check(targets) || !PyTuple_Size(targets))
        goto end;
    call->route = PyTuple_GetItem(targets, (Py_ssize_t)(call->hash % (uint64_t)PyTuple_Size(targets)));
    if ((peer = PyObject_GetAttr(call->route, name_peer)) == NULL || peer == Py_None ||
        (connection = PyObject_GetAttr(peer, name_connection)) == NULL ||
        !PyObject_TypeCheck(connection, books_type) || !may_start(call->books = (Books *)connection) ||
        (call->part = PyObject_GetAttr(call->route, name_header_part)) == NULL)
        goto end;
    if (!call->observed ||
        told(call, "call_started", PART(way, STARTED), PyObject_CallFunctionObjArgs(
            PART(way, STARTED), PART(lane, TABLE), PART(shape, LABEL), NULL)) == 0)
        /* A listener may have closed the connection. */
        result = may_start(call->books) ? send_and_wait(call) : rest_of_call(call, Py_None);
end:
    if (call->part == NULL && !PyErr_Occurred()) result = Py_NewRef(Py_NotImplemented);
    return RELEASE(call->way, table, targets, peer, connection, call->part), result;
}

/* Tell whether exactly these fields, (kind, number) each, precede the ends of two structs. */
static int has_fields(const unsigned char *at, const unsigned char *end, const char *fields) {
    for (; *fields; fields += 2) {
        if (end - at < 9 || !field_is(at, (unsigned char)fields[0], (unsigned char)fields[1])) return 0;
        Py_ssize_t size = fields[0] == 8 ? 4 : fields[0] == 10 ? 8 : 4 + (Py_ssize_t)read_u32(at + 3);
        if (size < 4 || size > end - at - 5) return 0;
        /* Text that is not ASCII may be invalid. */
        for (Py_ssize_t letter = 4; fields[0] == 11 && letter < size; letter++)
            if (at[3 + letter] > 0x7F) return 0;
        at += 3 + size;
    }
    return end - at == 2 && !at[0] && !at[1];
}

/* The fields of a reply: status, value, app_id, partition_index, server; those of a put have a decree and no value. */
static const char GET_FIELDS[] = "\x08\1\x0c\2\x08\3\x08\4\x0b\6", PUT_FIELDS[] = "\x08\1\x08\2\x08\3\x0a\4\x0b\5";
/* Return the value; None for a put or an absent record; (frame,) if another decoder must read it. */
static PyObject *read_reply(PyObject *frame, const char *fields, Py_ssize_t offset) {
    const unsigned char *at = PyBytes_CheckExact(frame) ? raw(frame) + offset : NULL;
    int gets = fields == GET_FIELDS;
    if (at == NULL || PyBytes_Size(frame) <= offset || !field_is(at - 3, 12, 0) ||
        !has_fields(at, raw(frame) + PyBytes_Size(frame), fields) || read_u32(at + 3) > (uint32_t)gets)
        return Py_BuildValue("(O)", frame);
    return gets && !read_u32(at + 3) ? slice(at, 14, 14 + read_u32(at + 10)) : Py_NewRef(Py_None);
}

static PyObject *core_value(PyObject *self, PyObject *frame) {
    static const char ok[] = "\0\0\0\6ERR_OK\x80\1\0\2\0\0\0\x15RPC_RRDB_RRDB_GET_ACK";
    int usual = PyBytes_CheckExact(frame) && PyBytes_Size(frame) > 50 && !memcmp(raw(frame) + 4, ok, sizeof(ok) - 1);
    return read_reply(usual ? frame : Py_None, GET_FIELDS, 50);
}

/* get(lane, hash_key, sort_key), put(lane, hash_key, sort_key, value, expire_ts); NotImplemented: nothing was sent. */
static PyObject *core_call(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 3 && count != 5) return PyErr_Format(PyExc_TypeError, "3 or 5 arguments are needed, not %zd", count);
    PyObject *hash_key = args[1], *sort_key = args[2], *value = count == 5 ? args[3] : NULL;
    int expire = value ? (int)PyLong_AsLong(args[4]) : 0;
    Call made = {.lane = args[0], .shape = PyTuple_GetItem(args[0], value ? PUT : GET), .hash_key = hash_key,
                 .sort_key = sort_key, .value = value, .expire = expire, .near = (const char *)args}, *call = &made;
    if (PyErr_Occurred()) return NULL;
    if (!PyBytes_CheckExact(hash_key) || !PyBytes_CheckExact(sort_key) || PyBytes_Size(hash_key) > 65534 ||
        (value && (!PyBytes_CheckExact(value) || argument_size(hash_key, sort_key, value) > NUMBER(lane, LARGEST_PUT))))
        return Py_NewRef(Py_NotImplemented);
    PyObject *hashed = PyBytes_Size(hash_key) ? hash_key : sort_key;
    call->hash = crc64(raw(hashed), PyBytes_Size(hashed));
    PyObject *frame = exchange(call);
    if (frame == NULL || frame == Py_NotImplemented) return frame;
    PyObject *found = read_reply(frame, value ? PUT_FIELDS : GET_FIELDS, NUMBER(shape, BODY_OFFSET));
    return RELEASE(frame), found;
}

static PyMethodDef books_methods[] = {
    {"flush", METHOD(books_flush), METH_NOARGS, "flush(): send all collected frames, in the hub"},
    {"arrived", METHOD(books_arrived), METH_NOARGS, "arrived(): read the received bytes, in the hub"},
    {"post", METHOD(books_post), METH_FASTCALL, "post(...): send a request, see Connection.start"},
    {"deliver", METHOD(books_deliver), METH_VARARGS, "deliver(frames, pending): deliver replies, in the hub"},
    {NULL, NULL, 0, NULL},
};
#define BOOKS(kind, name) {#name, kind, offsetof(Books, name), 0, NULL}
#define REFERENCE(name) BOOKS(T_OBJECT_EX, name),
static PyMemberDef books_members[] = {
    BOOKS_REFERENCES(REFERENCE)
    BOOKS(T_DOUBLE, _wake_at), BOOKS(T_DOUBLE, _timer_at), BOOKS(T_DOUBLE, heard), BOOKS(T_DOUBLE, silent_since),
    BOOKS(T_PYSSIZET, _small), BOOKS(T_PYSSIZET, _share), BOOKS(T_PYSSIZET, _max_frame), BOOKS(T_INT, _version),
    BOOKS(T_PYSSIZET, _out_bytes), BOOKS(T_PYSSIZET, _max_in_flight), BOOKS(T_INT, _fd), BOOKS(T_BOOL, _crowded),
    BOOKS(T_BOOL, _in_pass), BOOKS(T_BOOL, _has_read), BOOKS(T_BOOL, _referenced), BOOKS(T_BOOL, _plain),
    {NULL, 0, 0, 0, NULL},
};
#define VISIT(field) Py_VISIT(self->field);
#define DROP(field) Py_CLEAR(self->field);
static int books_traverse(Books *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    BOOKS_REFERENCES(VISIT) return 0;
}
static int books_clear(Books *self) { BOOKS_REFERENCES(DROP) return 0; }
static void books_free(Books *self) {
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    books_clear(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}
static PyType_Slot books_slots[] = {
    {Py_tp_dealloc, books_free}, {Py_tp_traverse, books_traverse}, {Py_tp_clear, books_clear},
    {Py_tp_members, books_members}, {Py_tp_methods, books_methods}, {0, NULL},
};
static PyType_Spec books_spec = {"pegasus_green._core.Books", sizeof(Books), 0,
                                 Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE, books_slots};

static PyMethodDef functions[] = {
    {"crc64", core_crc64, METH_O, "crc64(data) -> int"},
    {"argument", core_argument, METH_VARARGS, "argument(hash_key, sort_key[, value, expire_ts])"},
    {"cut", core_cut, METH_VARARGS, "cut(data, pos, largest, frames)"},
    {"value", core_value, METH_O, "value(frame): read_reply of a reply to get; (None,) if it is not one"},
    {"get", METHOD(core_call), METH_FASTCALL, "get(lane, hash_key, sort_key)"},
    {"put", METHOD(core_call), METH_FASTCALL, "put(lane, hash_key, sort_key, value, expire_ts)"},
    {"cut_rows", core_cut_rows, METH_VARARGS, "cut_rows(data, pos, count, skip, with_expiry, rows)"},
    {"page", core_page, METH_NOARGS, "page(): the page that shows a fork"},
    {"write_by", core_write_by, METH_O, "write_by(function): for tests, replace the system call"},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module) {
    fill_crc_table();
    NAMES(FILL_ONE)
    slot_type = (PyTypeObject *)PyType_FromSpec(&slot_spec);
    books_type = (PyTypeObject *)PyType_FromSpec(&books_spec);
    if (slot_type == NULL || books_type == NULL) return -1;
    return PyObject_SetAttrString(module, "Books", (PyObject *)books_type);
}
static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pegasus_green._core", "The compiled core.", 0, functions, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
