/* The compiled core: what nearly every call does, for CPython's limited API.
 *
 * Optional: every function here has a twin in pure Python, which decides in all cases that this file does not know,
 * and which runs alone where nothing was compiled. Both are held to the same tests.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <structmember.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---------------------------------------------------------------------------------------------- numbers and bytes */

static uint32_t read_u32(const unsigned char *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void write_u32(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 24);
    at[1] = (unsigned char)(value >> 16);
    at[2] = (unsigned char)(value >> 8);
    at[3] = (unsigned char)value;
}

static const unsigned char *bytes_of(PyObject *object, Py_ssize_t *size) {
    char *found;
    if (PyBytes_AsStringAndSize(object, &found, size) < 0) return NULL;
    return (const unsigned char *)found;
}

static PyObject *slice(const unsigned char *data, Py_ssize_t start, Py_ssize_t end) {
    return PyBytes_FromStringAndSize((const char *)data + start, end - start);
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static int wrong_count(const char *name, Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted) return 0;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", name, wanted, count);
    return -1;
}

/* ----------------------------------------------------------------------------------------------------- CRC-64/NVME */

/* Eight bytes a step: table[k][b] is the checksum of byte b with k zero bytes behind it. */
static uint64_t crc_table[8][256];

static void fill_crc_table(void) {
    for (int byte = 0; byte < 256; byte++) {
        uint64_t crc = (uint64_t)byte;
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0x9A6C9329AC4BC9B5ULL : crc >> 1;
        crc_table[0][byte] = crc;
    }
    for (int byte = 0; byte < 256; byte++)
        for (int step = 1; step < 8; step++)
            crc_table[step][byte] = crc_table[step - 1][byte] >> 8 ^ crc_table[0][crc_table[step - 1][byte] & 0xFF];
}

static uint64_t crc64(const unsigned char *data, Py_ssize_t size) {
    uint64_t crc = ~(uint64_t)0;
    for (; size >= 8; size -= 8, data += 8) {
        uint64_t word = 0;
        for (int at = 7; at >= 0; at--) word = word << 8 | data[at];
        word ^= crc;
        crc = 0;
        for (int at = 0; at < 8; at++) crc ^= crc_table[7 - at][word >> (8 * at) & 0xFF];
    }
    for (; size > 0; size--, data++) crc = crc_table[0][(crc ^ *data) & 0xFF] ^ crc >> 8;
    return ~crc;
}

static PyObject *core_crc64(PyObject *self, PyObject *data) {
    Py_ssize_t size;
    const unsigned char *bytes = bytes_of(data, &size);
    return bytes == NULL ? NULL : PyLong_FromUnsignedLongLong(crc64(bytes, size));
}

/* -------------------------------------------------------------------------------------------------------- arguments */

/* key_argument(hash_key, sort_key): the encoded key as a blob in field 1. */
static PyObject *core_key_argument(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t first, second;
    if (wrong_count("key_argument", count, 2)) return NULL;
    const unsigned char *hash_key = bytes_of(args[0], &first), *sort_key = bytes_of(args[1], &second);
    if (hash_key == NULL || sort_key == NULL) return NULL;
    if (first > 0xFFFF || second > 0x7FFFFF00) {
        PyErr_SetString(PyExc_OverflowError, "a key is too long");
        return NULL;
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, 10 + first + second);
    if (made == NULL) return NULL;
    unsigned char *at = (unsigned char *)PyBytes_AsString(made);
    memcpy(at, "\x0c\0\1", 3);
    write_u32(at + 3, (uint32_t)(2 + first + second));
    at[7] = (unsigned char)(first >> 8);
    at[8] = (unsigned char)first;
    memcpy(at + 9, hash_key, (size_t)first);
    memcpy(at + 9 + first, sort_key, (size_t)second);
    at[9 + first + second] = 0;
    return made;
}

/* put_argument(hash_key, sort_key, value, expire_ts): an update_request in field 1. */
static PyObject *core_put_argument(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t first, second, length;
    if (wrong_count("put_argument", count, 4)) return NULL;
    const unsigned char *hash_key = bytes_of(args[0], &first), *sort_key = bytes_of(args[1], &second);
    const unsigned char *value = bytes_of(args[2], &length);
    if (hash_key == NULL || sort_key == NULL || value == NULL) return NULL;
    long expire = PyLong_AsLong(args[3]);
    if (expire == -1 && PyErr_Occurred()) return NULL;
    if (first > 0xFFFF || second > 0x7FFFFF00 || length > 0x7FFFFF00 || expire != (int32_t)expire) {
        PyErr_SetString(PyExc_OverflowError, "a key, the value or the expiry is too large");
        return NULL;
    }
    PyObject *made = PyBytes_FromStringAndSize(NULL, 28 + first + second + length);
    if (made == NULL) return NULL;
    unsigned char *at = (unsigned char *)PyBytes_AsString(made);
    memcpy(at, "\x0c\0\1\x0c\0\1", 6);
    write_u32(at + 6, (uint32_t)(2 + first + second));
    at[10] = (unsigned char)(first >> 8);
    at[11] = (unsigned char)first;
    at += 12;
    memcpy(at, hash_key, (size_t)first);
    memcpy(at += first, sort_key, (size_t)second);
    memcpy(at += second, "\x0c\0\2", 3);
    write_u32(at + 3, (uint32_t)length);
    memcpy(at += 7, value, (size_t)length);
    memcpy(at += length, "\x08\0\3", 3);
    write_u32(at + 3, (uint32_t)expire);
    at[7] = at[8] = 0;
    return made;
}

/* ------------------------------------------------------------------------------------------------------ the replies */

/* cut(data, pos, mark, shape, largest, frames): append the usual replies as (sequence id, frame); return where another
 * kind, or an incomplete one, begins. mark is what stands between the length and the name. */
static PyObject *core_cut(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t end, marked;
    if (wrong_count("cut", count, 6)) return NULL;
    const unsigned char *data = bytes_of(args[0], &end), *mark = bytes_of(args[2], &marked);
    if (data == NULL || mark == NULL) return NULL;
    Py_ssize_t pos = PyLong_AsSsize_t(args[1]), shape = PyLong_AsSsize_t(args[3]);
    Py_ssize_t largest = PyLong_AsSsize_t(args[4]);
    if (PyErr_Occurred()) return NULL;
    while (end - pos >= shape) {
        Py_ssize_t size = (int32_t)read_u32(data + pos);
        if (size < shape || size > end - pos || size > largest || memcmp(data + pos + 4, mark, (size_t)marked)) break;
        PyObject *frame = slice(data, pos, pos + size);
        /* The sequence id is the last thing that a reply of this shape is certain to have. */
        PyObject *pair = frame == NULL ? NULL : Py_BuildValue("(iN)", (int)read_u32(data + pos + shape - 4), frame);
        if (pair == NULL || PyList_Append(args[5], pair) < 0) {
            Py_XDECREF(pair);
            return NULL;
        }
        Py_DECREF(pair);
        pos += size;
    }
    return PyLong_FromSsize_t(pos);
}

/* cut_rows(data, pos, count, skip, with_expiry, rows, row_type): append the rows of a multi_get or scan, see rows.py.
 * skip < 0: the keys are encoded ones and are split. Return where the last row's STOP is; -1: an unusual layout. */
static int field_is(const unsigned char *at, unsigned char kind, unsigned char number) {
    return at[0] == kind && at[1] == 0 && at[2] == number;
}

static PyObject *new_row(PyObject *type, Py_ssize_t size) {
    return type == Py_None ? PyTuple_New(size) : PyType_GenericAlloc((PyTypeObject *)type, size);
}

static int put_part(PyObject *row, Py_ssize_t at, PyObject *part) {
    return part == NULL || PyTuple_SetItem(row, at, part) < 0;
}

static PyObject *core_cut_rows(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    Py_ssize_t end;
    if (wrong_count("cut_rows", count, 7)) return NULL;
    const unsigned char *data = bytes_of(args[0], &end);
    if (data == NULL) return NULL;
    Py_ssize_t pos = PyLong_AsSsize_t(args[1]), rows = PyLong_AsSsize_t(args[2]), skip = PyLong_AsSsize_t(args[3]);
    int expiry = PyObject_IsTrue(args[4]);
    if (PyErr_Occurred()) return NULL;
    for (Py_ssize_t row = 0; row < rows; row++) {
        /* The byte in front: the STOP of the row before, or the last byte of the count. */
        if (end - pos < 8 || !field_is(data + pos + 1, 12, 1) || (row && data[pos])) return PyLong_FromLong(-1);
        Py_ssize_t start = pos + 8, size = read_u32(data + pos + 4), middle = start + (skip < 0 ? 0 : skip);
        if (size > end - start - 7) return PyLong_FromLong(-1);
        Py_ssize_t stop = start + size;
        if (skip < 0) {
            if (size < 2) return PyLong_FromLong(-1);
            middle = start + 2 + (data[start] << 8 | data[start + 1]);
        }
        if (middle > stop || !field_is(data + stop, 12, 2)) return PyLong_FromLong(-1);
        Py_ssize_t value = stop + 7, length = read_u32(data + stop + 3);
        if (length > end - value) return PyLong_FromLong(-1);
        pos = value + length;
        int32_t expires = 0;
        if (expiry) {
            if (end - pos < 7 || !field_is(data + pos, 8, 3)) return PyLong_FromLong(-1);
            expires = (int32_t)read_u32(data + pos + 3);
        }
        Py_ssize_t parts = (skip < 0) + 2 + expiry, part = 0;
        PyObject *made = new_row(args[6], parts);
        if (made == NULL) return NULL;
        int failed = (skip < 0 && put_part(made, part++, slice(data, start + 2, middle))) ||
                     put_part(made, part++, slice(data, middle, stop)) ||
                     put_part(made, part++, slice(data, value, pos)) ||
                     (expiry && put_part(made, part, PyLong_FromLong(expires)));
        pos += expiry ? 7 : 0;
        failed = failed || PyList_Append(args[5], made) < 0;
        Py_DECREF(made);
        if (failed) return NULL;
    }
    return PyLong_FromSsize_t(pos);
}

static void drop(PyObject **place) {
    PyObject *old = *place;
    *place = NULL;
    Py_XDECREF(old);
}

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

/* What the collector and the end need of a type whose references REFERENCES names. */
#define VISIT_ONE(field) Py_VISIT((PyObject *)self->field);
#define DROP_ONE(field) drop((PyObject **)&self->field);
#define LIFE_OF(name, Type, REFERENCES)                                       \
    static int name##_traverse(Type *self, visitproc visit, void *arg) {      \
        Py_VISIT(Py_TYPE(self));                                              \
        REFERENCES(VISIT_ONE)                                                 \
        return 0;                                                             \
    }                                                                         \
    static int name##_clear(Type *self) {                                     \
        REFERENCES(DROP_ONE)                                                  \
        return 0;                                                             \
    }                                                                         \
    static void name##_free(Type *self) {                                     \
        PyObject_GC_UnTrack(self);                                            \
        name##_clear(self);                                                   \
        free_object((PyObject *)self);                                        \
    }
#define LIFE_SLOTS(name) \
    {Py_tp_dealloc, name##_free}, {Py_tp_traverse, name##_traverse}, {Py_tp_clear, name##_clear}

/* -------------------------------------------------------------------------------------------------------- greenlets */

/* greenlet's C interface, by the numbers of its header; loaded with the first slot. */
static void **greenlet_api;
#define greenlet_current ((PyObject * (*)(void)) greenlet_api[4])
#define greenlet_switch ((PyObject * (*)(PyObject *, PyObject *, PyObject *)) greenlet_api[6])
#define greenlet_parent ((PyObject * (*)(PyObject *)) greenlet_api[11])

static int load_greenlet(void) {
    if (greenlet_api == NULL) {
        PyObject *module = PyImport_ImportModule("greenlet");
        if (module == NULL) return -1;
        Py_DECREF(module);
        greenlet_api = PyCapsule_Import("greenlet._C_API", 0);
    }
    return greenlet_api == NULL ? -1 : 0;
}

/* Where one call waits for its outcome. The hub wakes a greenlet only while it is suspended in slot_get, which no bytecode
 * can tell apart from waiting: an outcome that comes earlier is kept, one that comes later is dropped. */
typedef struct {
    PyObject_HEAD
    PyObject *hub;
    PyObject *greenlet; /* suspended in slot_get; else NULL */
    PyObject *outcome;  /* came, and was not taken yet */
    char delivered;
} Slot;
#define SLOT_REFERENCES(X) X(hub) X(greenlet) X(outcome)
LIFE_OF(slot, Slot, SLOT_REFERENCES)

static PyTypeObject *slot_type, *books_type, *switchboard_type, *shape_type, *lane_type;

static Slot *slot_new(PyObject *hub) {
    Slot *made = PyObject_GC_New(Slot, slot_type);
    if (made == NULL) return NULL;
    Py_INCREF(hub);
    made->hub = hub;
    made->greenlet = made->outcome = NULL;
    made->delivered = 0;
    PyObject_GC_Track((PyObject *)made);
    return made;
}

static PyObject *slot_get(Slot *self) {
    if (self->outcome == NULL) {
        PyObject *current = greenlet_current(), *woken;
        if (current == NULL) return NULL;
        if (self->greenlet != NULL) {
            Py_DECREF(current);
            PyErr_SetString(PyExc_RuntimeError, "two greenlets wait for one call");
            return NULL;
        }
        self->greenlet = current;
        woken = greenlet_switch(self->hub, NULL, NULL);
        drop(&self->greenlet);
        if (woken == NULL || self->outcome == NULL) return woken;
        Py_DECREF(woken);
    }
    PyObject *outcome = self->outcome;
    self->outcome = NULL;
    return outcome;
}

static PyObject *slot_switch(Slot *self, PyObject *outcome) {
    PyObject *old = self->outcome;
    Py_INCREF(outcome);
    self->outcome = outcome;
    self->delivered = 1;
    Py_XDECREF(old);
    if (self->greenlet == NULL) Py_RETURN_NONE;
    PyObject *waiting = self->greenlet, *back;
    Py_INCREF(waiting);
    back = greenlet_switch(waiting, NULL, NULL);
    Py_DECREF(waiting);
    return back;
}

static PyMethodDef slot_methods[] = {
    {"switch", (PyCFunction)(void (*)(void))slot_switch, METH_O, "switch(outcome): hand it over, in the hub"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot slot_slots[] = {
    LIFE_SLOTS(slot), {Py_tp_methods, slot_methods},
    {Py_tp_doc, "Where one call waits for its outcome."}, {0, NULL},
};
static PyType_Spec slot_spec = {
    "pegasus_green._core.Slot", sizeof(Slot), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slot_slots,
};

/* ------------------------------------------------------------------------------------- the state that calls look at */

/* Bases of Python classes, so that their most used attributes are read without a look-up. */
typedef struct {
    PyObject_HEAD
    PyObject *session, *pending, *out;
    double wake_at, heard;
    Py_ssize_t small, max_in_flight;
    int version;
    char crowded, in_pass;
} Books;
#define BOOKS_REFERENCES(X) X(session) X(pending) X(out)
LIFE_OF(books, Books, BOOKS_REFERENCES)

typedef struct {
    PyObject_HEAD
    PyObject *open_hub, *scopes;
    double timeout;
    int milliseconds;
    char observed, repeats;
} Switchboard;
#define SWITCHBOARD_REFERENCES(X) X(open_hub) X(scopes)
LIFE_OF(switchboard, Switchboard, SWITCHBOARD_REFERENCES)

static PyMemberDef books_members[] = {
    {"session", T_OBJECT_EX, offsetof(Books, session), 0, NULL},
    {"pending", T_OBJECT_EX, offsetof(Books, pending), 0, NULL},
    {"_out", T_OBJECT_EX, offsetof(Books, out), 0, NULL},
    {"_wake_at", T_DOUBLE, offsetof(Books, wake_at), 0, NULL},
    {"heard", T_DOUBLE, offsetof(Books, heard), 0, NULL},
    {"_small", T_PYSSIZET, offsetof(Books, small), 0, NULL},
    {"_max_in_flight", T_PYSSIZET, offsetof(Books, max_in_flight), 0, NULL},
    {"_version", T_INT, offsetof(Books, version), 0, NULL},
    {"_crowded", T_BOOL, offsetof(Books, crowded), 0, NULL},
    {"_in_pass", T_BOOL, offsetof(Books, in_pass), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef switchboard_members[] = {
    {"open_hub", T_OBJECT, offsetof(Switchboard, open_hub), 0, NULL},
    {"timeout", T_DOUBLE, offsetof(Switchboard, timeout), 0, NULL},
    {"milliseconds", T_INT, offsetof(Switchboard, milliseconds), 0, NULL},
    {"scopes", T_OBJECT, offsetof(Switchboard, scopes), 0, NULL},
    {"observed", T_BOOL, offsetof(Switchboard, observed), 0, NULL},
    {"repeats", T_BOOL, offsetof(Switchboard, repeats), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot books_slots[] = {
    LIFE_SLOTS(books), {Py_tp_members, books_members}, {Py_tp_doc, "What calls look at and change in a connection."}, {0, NULL},
};
static PyType_Slot switchboard_slots[] = {
    LIFE_SLOTS(switchboard), {Py_tp_members, switchboard_members}, {Py_tp_doc, "What calls look at in a client."}, {0, NULL},
};
#define BASE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE)
static PyType_Spec books_spec = {"pegasus_green._core.Books", sizeof(Books), 0, BASE_FLAGS, books_slots};
static PyType_Spec switchboard_spec = {
    "pegasus_green._core.Switchboard", sizeof(Switchboard), 0, BASE_FLAGS, switchboard_slots,
};

/* deliver(frames, at, end, pending, connection): hand frames[at:end] over to the slots that wait for them; return the
 * index of the first frame that is for another taker or for nobody, or end. An exception of a greenlet that died goes
 * to connection._failed(type, value, traceback). */
static PyObject *core_deliver(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (wrong_count("deliver", count, 5)) return NULL;
    Py_ssize_t at = PyLong_AsSsize_t(args[1]), end = PyLong_AsSsize_t(args[2]);
    if (PyErr_Occurred()) return NULL;
    PyObject *frames = args[0], *pending = args[3];
    for (; at < end; at++) {
        PyObject *pair = PyList_GetItem(frames, at);
        if (pair == NULL) return NULL;
        PyObject *seqid = PyTuple_GetItem(pair, 0), *frame = PyTuple_GetItem(pair, 1);
        PyObject *entry = seqid == NULL || frame == NULL ? NULL : PyDict_GetItemWithError(pending, seqid);
        if (entry == NULL) {
            if (PyErr_Occurred()) return NULL;
            break;
        }
        PyObject *taker = PyTuple_GetItem(entry, 0);
        if (taker == NULL) return NULL;
        if (Py_TYPE(taker) != slot_type) break;
        Py_INCREF(taker);
        Py_INCREF(frame);
        PyObject *done = PyDict_DelItem(pending, seqid) < 0 ? NULL : slot_switch((Slot *)taker, frame);
        Py_DECREF(frame);
        Py_DECREF(taker);
        if (done == NULL) {
            PyObject *type, *value, *traceback;
            PyErr_Fetch(&type, &value, &traceback);
            PyErr_NormalizeException(&type, &value, &traceback);
            done = PyObject_CallMethod(args[4], "_failed", "OOO", type, value ? value : Py_None,
                                       traceback ? traceback : Py_None);
            Py_XDECREF(type);
            Py_XDECREF(value);
            Py_XDECREF(traceback);
            if (done == NULL) return NULL;
        }
        Py_DECREF(done);
    }
    return PyLong_FromSsize_t(at);
}

/* ----------------------------------------------------------------------------------------------- the way of a call */

/* What is constant in the frames of one RPC: head is a whole v1 request up to its argument. */
typedef struct {
    PyObject_HEAD
    PyObject *rpc, *head, *ok_head;
    Py_ssize_t body_base, body_offset;
    char repeatable;
} Shape;
#define SHAPE_REFERENCES(X) X(rpc) X(head) X(ok_head)
LIFE_OF(shape, Shape, SHAPE_REFERENCES)

enum { BODY_LENGTH = 12, GPID = 16, TIMEOUT = 33, HASH = 40, TAIL = 48, GPID_SIZE = 17 };

static PyObject *shape_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *rpc, *head, *ok_head;
    Py_ssize_t body_base, body_offset;
    int repeatable;
    if (!PyArg_ParseTuple(args, "OSSnnp", &rpc, &head, &ok_head, &body_base, &body_offset, &repeatable)) return NULL;
    if (PyBytes_Size(head) < TAIL + 4) {
        PyErr_SetString(PyExc_ValueError, "a head that is too short");
        return NULL;
    }
    Shape *made = (Shape *)PyType_GenericAlloc(type, 0);
    if (made == NULL) return NULL;
    made->rpc = Py_NewRef(rpc);
    made->head = Py_NewRef(head);
    made->ok_head = Py_NewRef(ok_head);
    made->body_base = body_base;
    made->body_offset = body_offset;
    made->repeatable = (char)repeatable;
    return (PyObject *)made;
}

static PyType_Slot shape_slots[] = {
    LIFE_SLOTS(shape), {Py_tp_new, shape_make}, {Py_tp_doc, "What is constant in the frames of one RPC."}, {0, NULL},
};
static PyType_Spec shape_spec = {
    "pegasus_green._core.Shape", sizeof(Shape), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, shape_slots,
};

/* The shortest way of the calls of one table: known routes, an open connection, nothing that was asked for besides. */
typedef struct {
    PyObject_HEAD
    PyObject *dispatcher, *routes, *histogram, *ending, *update_head, *update_end;
    Switchboard *switchboard;
    Shape *get, *put;
    Py_ssize_t largest_put;
} Lane;
#define LANE_REFERENCES(X) \
    X(dispatcher) X(routes) X(histogram) X(ending) X(update_head) X(update_end) X(switchboard) X(get) X(put)
LIFE_OF(lane, Lane, LANE_REFERENCES)

static PyObject *lane_make(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *dispatcher, *switchboard, *routes, *histogram, *get, *put;
    Py_ssize_t largest;
    if (load_greenlet() || !PyArg_ParseTuple(args, "OO!OO!O!O!n", &dispatcher, switchboard_type, &switchboard, &routes,
                                             &PyList_Type, &histogram, shape_type, &get, shape_type, &put, &largest))
        return NULL;
    Lane *made = (Lane *)PyType_GenericAlloc(type, 0);
    if (made == NULL) return NULL;
    made->dispatcher = Py_NewRef(dispatcher);
    made->switchboard = (Switchboard *)Py_NewRef(switchboard);
    made->routes = Py_NewRef(routes);
    made->histogram = Py_NewRef(histogram);
    made->get = (Shape *)Py_NewRef(get);
    made->put = (Shape *)Py_NewRef(put);
    made->largest_put = largest;
    return (PyObject *)made;
}

/* A page that the kernel fills with zeros in a child process. */
static volatile unsigned char *own_page;

static int in_parent(void) { return own_page != NULL && *own_page; }

static PyObject *core_arm(PyObject *self, PyObject *unused) {
    if (own_page == NULL) {
        long size = sysconf(_SC_PAGESIZE);
        void *made = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) Py_RETURN_FALSE;
#ifdef MADV_WIPEONFORK
        if (madvise(made, (size_t)size, MADV_WIPEONFORK) == 0) own_page = made;
#endif
        if (own_page == NULL) {
            munmap(made, (size_t)size);
            Py_RETURN_FALSE;
        }
    }
    *own_page = 1;
    Py_RETURN_TRUE;
}

static double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void count_latency(PyObject *histogram, double seconds) {
    int bucket;
    frexp(seconds, &bucket);
    Py_ssize_t at = bucket < 0 ? PyList_Size(histogram) + bucket : bucket;
    PyObject *found = PyList_GetItem(histogram, at), *more;
    more = found == NULL ? NULL : PyLong_FromSsize_t(PyLong_AsSsize_t(found) + 1);
    if (more == NULL || PyList_SetItem(histogram, at, more) < 0) PyErr_Clear();
}

/* Names of attributes that are read at each call. */
static PyObject *name_connection, *name_header_part, *name_ids, *name_peer, *name_send, *name_table, *name_targets;

static int fill_names(void) {
    name_connection = PyUnicode_InternFromString("connection");
    name_header_part = PyUnicode_InternFromString("header_part");
    name_ids = PyUnicode_InternFromString("ids");
    name_peer = PyUnicode_InternFromString("peer");
    name_send = PyUnicode_InternFromString("_send");
    name_table = PyUnicode_InternFromString("table");
    name_targets = PyUnicode_InternFromString("targets");
    return PyErr_Occurred() ? -1 : 0;
}

/* Take an interrupted request back; whatever interrupts that, too. */
static void abandon(PyObject *connection, PyObject *seqid, PyObject *slot) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    for (int attempt = 0; attempt < 2; attempt++) {
        PyObject *done = PyObject_CallMethod(connection, "abandon", "OO", seqid, slot);
        if (done != NULL) {
            Py_DECREF(done);
            break;
        }
        /* What struck last is what the application gets. */
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        PyErr_Fetch(&type, &value, &traceback);
    }
    PyErr_Restore(type, value, traceback);
}

static PyObject *next_id(Books *books) {
    PyObject *ids = PyObject_GetAttr(books->session, name_ids), *seqid;
    if (ids == NULL) return NULL;
    seqid = PyIter_Next(ids);
    Py_DECREF(ids);
    if (seqid == NULL) return NULL;
    long number = PyLong_AsLong(seqid);
    int taken = number > 0x7FFFFFFF ? 1 : PyDict_Contains(books->pending, seqid);
    if (taken == 0) return seqid;
    Py_DECREF(seqid);
    return taken < 0 ? NULL : PyObject_CallMethod(books->session, "free_id", NULL);
}

static PyObject *make_frame(Shape *shape, PyObject *header_part, int milliseconds, uint64_t hash, PyObject *seqid,
                            PyObject *argument) {
    Py_ssize_t head_size = PyBytes_Size(shape->head), part_size, size;
    const unsigned char *part = bytes_of(header_part, &part_size), *data = bytes_of(argument, &size);
    if (part == NULL || data == NULL) return NULL;
    if (part_size != GPID_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a header part of another size");
        return NULL;
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, head_size + size);
    if (frame == NULL) return NULL;
    unsigned char *at = (unsigned char *)PyBytes_AsString(frame);
    memcpy(at, PyBytes_AsString(shape->head), (size_t)head_size);
    write_u32(at + BODY_LENGTH, (uint32_t)(shape->body_base + size));
    memcpy(at + GPID, part, GPID_SIZE);
    write_u32(at + TIMEOUT, (uint32_t)milliseconds);
    write_u32(at + HASH, (uint32_t)(hash >> 32));
    write_u32(at + HASH + 4, (uint32_t)hash);
    write_u32(at + head_size - 4, (uint32_t)PyLong_AsLong(seqid));
    memcpy(at + head_size, data, (size_t)size);
    return frame;
}

/* Send a request and wait for its outcome. The entry and the frame are put into the books with no bytecode in between:
 * nothing can interrupt a request that is half there. */
static PyObject *send_and_wait(Lane *self, Books *books, Shape *shape, PyObject *route, PyObject *header_part,
                               uint64_t hash, PyObject *argument, double now) {
    PyObject *connection = (PyObject *)books, *outcome = NULL;
    double deadline = now + self->switchboard->timeout;
    PyObject *seqid = next_id(books), *frame = NULL, *entry = NULL;
    Slot *slot = slot_new(self->switchboard->open_hub);
    if (seqid == NULL || slot == NULL) goto end;
    frame = make_frame(shape, header_part, self->switchboard->milliseconds, hash, seqid, argument);
    if (frame == NULL) goto end;
    entry = Py_BuildValue("(OdOO)", slot, deadline,
                          self->switchboard->repeats && shape->repeatable ? route : Py_None, Py_None);
    /* A finalizer may have run in any of these. */
    if (entry == NULL || books->pending == NULL || books->out == NULL) goto end;
    int gather = books->in_pass && PyBytes_Size(frame) <= books->small;
    if (PyDict_SetItem(books->pending, seqid, entry) < 0 || (gather && PyDict_SetItem(books->out, seqid, frame) < 0))
        goto lost;
    PyObject *done = Py_None;
    Py_INCREF(done);
    if (deadline < books->wake_at) {
        Py_DECREF(done);
        done = PyObject_CallMethod(connection, "_wake", "dd", deadline, now);
    }
    if (done != NULL && !gather) {
        Py_DECREF(done);
        done = PyObject_CallMethodObjArgs(connection, name_send, seqid, frame, NULL);
    }
    if (done == NULL) goto lost;
    Py_DECREF(done);
    outcome = slot_get(slot);
    if (outcome != NULL) goto end;
lost:
    abandon(connection, seqid, (PyObject *)slot);
end:
    if (outcome != NULL && !(slot->delivered && PyBytes_CheckExact(outcome) && PyBytes_Size(outcome) > shape->body_offset &&
                             memcmp(PyBytes_AsString(outcome) + 4, PyBytes_AsString(shape->ok_head),
                                    (size_t)PyBytes_Size(shape->ok_head)) == 0)) {
        PyObject *usual = PyObject_CallMethod(self->dispatcher, "rest_of_call", "OKOddOOOO", shape->rpc,
                                              (unsigned long long)hash, argument, now, deadline, outcome, route,
                                              connection, seqid);
        Py_DECREF(outcome);
        outcome = usual;
    } else if (outcome != NULL) {
        count_latency(self->histogram, books->heard - now);
    }
    Py_XDECREF(seqid);
    Py_XDECREF(frame);
    Py_XDECREF(entry);
    Py_XDECREF((PyObject *)slot);
    return outcome;
}

/* Tell whether the hub serves a greenlet: its parent is the hub, or it is the main greenlet of the hub's thread. */
static int child_of(PyObject *caller, PyObject *hub) {
    PyObject *parent = caller == NULL ? NULL : greenlet_parent(caller);
    int found = parent == hub;
    Py_XDECREF(parent);
    if (!found && parent == NULL && caller != NULL) {
        parent = greenlet_parent(hub);
        found = parent == caller;
        Py_XDECREF(parent);
    }
    Py_XDECREF(caller);
    return found;
}

/* Return a reply's frame, or NotImplemented, with nothing sent, for what goes the general way. */
static PyObject *exchange(Lane *self, Shape *shape, uint64_t hash, PyObject *argument) {
    Switchboard *board = self->switchboard;
    PyObject *table = NULL, *targets = NULL, *peer = NULL, *connection = NULL, *part = NULL, *result = Py_NotImplemented;
    Py_INCREF(result);
    if (board->scopes == NULL || PyDict_Size(board->scopes) || board->observed || board->open_hub == NULL || board->open_hub == Py_None || !in_parent())
        return result;
    if (!child_of(greenlet_current(), board->open_hub)) return result;
    double now = monotonic();
    table = PyObject_GetAttr(self->routes, name_table);
    if (table == NULL || table == Py_None) goto end;
    targets = PyObject_GetAttr(table, name_targets);
    if (targets == NULL || !PyTuple_Check(targets) || PyTuple_Size(targets) == 0) goto end;
    PyObject *route = PyTuple_GetItem(targets, (Py_ssize_t)(hash % (uint64_t)PyTuple_Size(targets)));
    peer = PyObject_GetAttr(route, name_peer);
    if (peer == NULL || peer == Py_None) goto end;
    connection = PyObject_GetAttr(peer, name_connection);
    if (connection == NULL || !PyObject_TypeCheck(connection, books_type)) goto end;
    Books *books = (Books *)connection;
    if (books->crowded || books->version != 1 || books->pending == NULL || books->out == NULL || books->session == NULL ||
        PyDict_Size(books->pending) >= books->max_in_flight)
        goto end;
    part = PyObject_GetAttr(route, name_header_part);
    if (part == NULL) goto end;
    Py_DECREF(result);
    Py_INCREF(route);
    result = send_and_wait(self, books, shape, route, part, hash, argument, now);
    Py_DECREF(route);
end:
    Py_XDECREF(table);
    Py_XDECREF(targets);
    Py_XDECREF(peer);
    Py_XDECREF(connection);
    Py_XDECREF(part);
    if (result == Py_NotImplemented && PyErr_Occurred()) {
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

static int usual_keys(PyObject *hash_key, PyObject *sort_key, uint64_t *hash) {
    if (!PyBytes_CheckExact(hash_key) || !PyBytes_CheckExact(sort_key) || PyBytes_Size(hash_key) > 65534) return 0;
    PyObject *hashed = PyBytes_Size(hash_key) ? hash_key : sort_key;
    *hash = crc64((const unsigned char *)PyBytes_AsString(hashed), PyBytes_Size(hashed));
    return 1;
}

static int same(PyObject *known, const unsigned char *data, Py_ssize_t size) {
    /* None until a reply of the usual kind came. */
    return known != NULL && PyBytes_CheckExact(known) && PyBytes_Size(known) == size &&
           memcmp(PyBytes_AsString(known), data, (size_t)size) == 0;
}

/* get(hash_key, sort_key): the value; or (frame,) where another decoder has to look; or NotImplemented. */
static PyObject *lane_get(Lane *self, PyObject *const *args, Py_ssize_t count) {
    static const unsigned char ok[] = "\x08\0\1\0\0\0\0\x0c\0\2";
    uint64_t hash;
    if (wrong_count("get", count, 2)) return NULL;
    if (!usual_keys(args[0], args[1], &hash)) Py_RETURN_NOTIMPLEMENTED;
    PyObject *argument = core_key_argument(NULL, args, 2);
    if (argument == NULL) return NULL;
    PyObject *frame = exchange(self, self->get, hash, argument);
    Py_DECREF(argument);
    if (frame == NULL || frame == Py_NotImplemented) return frame;
    if (PyBytes_CheckExact(frame)) {
        Py_ssize_t end, value = self->get->body_offset + 14;
        const unsigned char *data = bytes_of(frame, &end);
        if (end > value && memcmp(data + value - 14, ok, 10) == 0) {
            Py_ssize_t stop = value + (int32_t)read_u32(data + value - 4);
            if (stop >= value && stop <= end && same(self->ending, data + stop, end - stop)) {
                PyObject *found = slice(data, value, stop);
                Py_DECREF(frame);
                return found;
            }
        }
    }
    return Py_BuildValue("(N)", frame);
}

/* put(hash_key, sort_key, value, expire_ts): None where it is done; or (frame,); or NotImplemented. */
static PyObject *lane_put(Lane *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t hash;
    if (wrong_count("put", count, 4)) return NULL;
    if (!usual_keys(args[0], args[1], &hash) || !PyBytes_CheckExact(args[2]) ||
        28 + PyBytes_Size(args[0]) + PyBytes_Size(args[1]) + PyBytes_Size(args[2]) > self->largest_put)
        Py_RETURN_NOTIMPLEMENTED;
    PyObject *argument = core_put_argument(NULL, args, 4);
    if (argument == NULL) return NULL;
    PyObject *frame = exchange(self, self->put, hash, argument);
    Py_DECREF(argument);
    if (frame == NULL || frame == Py_NotImplemented) return frame;
    if (PyBytes_CheckExact(frame)) {
        /* The decree, 8 bytes, stands between what is the same in every reply. */
        Py_ssize_t end, head = self->put->body_offset, decree = head + 24;
        const unsigned char *data = bytes_of(frame, &end);
        if (end > decree + 8 && same(self->update_head, data + head, 24) &&
            same(self->update_end, data + decree + 8, end - decree - 8)) {
            Py_DECREF(frame);
            Py_RETURN_NONE;
        }
    }
    return Py_BuildValue("(N)", frame);
}

static PyMethodDef lane_methods[] = {
    {"get", FAST(lane_get), "get(hash_key, sort_key)"},
    {"put", FAST(lane_put), "put(hash_key, sort_key, value, expire_ts)"},
    {NULL, NULL, 0, NULL},
};

/* Endings of replies that the general decoder has accepted: what is the same needs no second look. */
static PyMemberDef lane_members[] = {
    {"ending", T_OBJECT, offsetof(Lane, ending), 0, NULL},
    {"update_head", T_OBJECT, offsetof(Lane, update_head), 0, NULL},
    {"update_end", T_OBJECT, offsetof(Lane, update_end), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    LIFE_SLOTS(lane), {Py_tp_new, lane_make}, {Py_tp_methods, lane_methods}, {Py_tp_members, lane_members},
    {Py_tp_doc, "The shortest way of the calls of one table."}, {0, NULL},
};
static PyType_Spec lane_spec = {
    "pegasus_green._core.Lane", sizeof(Lane), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, lane_slots,
};

static PyMethodDef functions[] = {
    {"crc64", core_crc64, METH_O, "crc64(data) -> int"},
    {"key_argument", FAST(core_key_argument), "key_argument(hash_key, sort_key)"},
    {"put_argument", FAST(core_put_argument), "put_argument(hash_key, sort_key, value, expire_ts)"},
    {"cut", FAST(core_cut), "cut(data, pos, mark, shape, largest, frames)"},
    {"arm", core_arm, METH_NOARGS, "arm() -> bool: have the short way notice forks"},
    {"deliver", FAST(core_deliver), "deliver(frames, at, end, pending, connection)"},
    {"cut_rows", FAST(core_cut_rows), "cut_rows(data, pos, count, skip, with_expiry, rows, row_type)"},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module) {
    struct {
        PyTypeObject **place;
        PyType_Spec *spec;
        const char *name;
    } types[] = {
        {&slot_type, &slot_spec, "Slot"},     {&books_type, &books_spec, "Books"},
        {&switchboard_type, &switchboard_spec, "Switchboard"},
        {&shape_type, &shape_spec, "Shape"},  {&lane_type, &lane_spec, "Lane"},
    };
    fill_crc_table();
    for (size_t at = 0; at < sizeof types / sizeof *types; at++) {
        *types[at].place = (PyTypeObject *)PyType_FromSpec(types[at].spec);
        if (*types[at].place == NULL ||
            PyObject_SetAttrString(module, types[at].name, (PyObject *)*types[at].place) < 0)
            return -1;
    }
    return fill_names();
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pegasus_green._core", "The compiled core.", 0, functions, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
