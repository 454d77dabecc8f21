/* The compiled core: what nearly every call does, for CPython's limited API.
 *
 * Optional: every function here has a twin in pure Python, which decides in all cases that this file does not know,
 * and which runs alone where nothing was compiled. Both are held to the same tests.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

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
        PyObject *made = new_row(args[6], parts), *bytes;
        if (made == NULL) return NULL;
        int failed = 0;
        if (skip < 0) {
            bytes = slice(data, start + 2, middle);
            failed |= bytes == NULL || PyTuple_SetItem(made, part++, bytes);
        }
        if (!failed) {
            bytes = slice(data, middle, stop);
            failed |= bytes == NULL || PyTuple_SetItem(made, part++, bytes);
        }
        if (!failed) {
            bytes = slice(data, value, pos);
            failed |= bytes == NULL || PyTuple_SetItem(made, part++, bytes);
        }
        if (!failed && expiry) {
            bytes = PyLong_FromLong(expires);
            failed |= bytes == NULL || PyTuple_SetItem(made, part, bytes);
            pos += 7;
        }
        failed = failed || PyList_Append(args[5], made) < 0;
        Py_DECREF(made);
        if (failed) return NULL;
    }
    return PyLong_FromSsize_t(pos);
}

static PyMethodDef functions[] = {
    {"crc64", core_crc64, METH_O, "crc64(data) -> int"},
    {"key_argument", (PyCFunction)(void (*)(void))core_key_argument, METH_FASTCALL, "key_argument(hash_key, sort_key)"},
    {"put_argument", (PyCFunction)(void (*)(void))core_put_argument, METH_FASTCALL,
     "put_argument(hash_key, sort_key, value, expire_ts)"},
    {"cut", (PyCFunction)(void (*)(void))core_cut, METH_FASTCALL, "cut(data, pos, mark, shape, largest, frames)"},
    {"cut_rows", (PyCFunction)(void (*)(void))core_cut_rows, METH_FASTCALL,
     "cut_rows(data, pos, count, skip, with_expiry, rows, row_type)"},
    {NULL, NULL, 0, NULL},
};

static int prepare(PyObject *module) {
    fill_crc_table();
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "pegasus_green._core", "The compiled core.", 0, functions, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&definition); }
