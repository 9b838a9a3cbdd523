/*
 * plc_protocol.h
 *		The wire codec that the PostgreSQL extension and the runtimes share.
 *
 * PROTOCOL.md is the specification. This file knows bytes and nothing of
 * PostgreSQL or of an interpreter: memory comes from a caller's function, and
 * an error is a static string that the caller turns into its own kind.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PLC_PROTOCOL_H
#define PLC_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "array elements are copied as they lie in memory: a big-endian host needs byte swapping here"
#endif

#define PLC_MAGIC UINT32_C(0x31434C50) /* "PLC1" */
#define PLC_VERSION 1
#define PLC_FEATURE_SQL UINT64_C(1)
#define PLC_FEATURE_SUBTRANSACTIONS UINT64_C(2)
#define PLC_FEATURE_SETS UINT64_C(8)
#define PLC_FEATURE_CHECKS UINT64_C(16)
#define PLC_FEATURES (PLC_FEATURE_SQL | PLC_FEATURE_SUBTRANSACTIONS | PLC_FEATURE_SETS | PLC_FEATURE_CHECKS)

#define PLC_HEADER_SIZE 16
#define PLC_MAX_FRAME_DEFAULT (UINT64_C(1) << 30)
#define PLC_MAX_FRAME_HANDSHAKE (UINT64_C(1) << 16)
#define PLC_MAX_ARGUMENTS 100
#define PLC_MAX_DIMENSIONS 6
#define PLC_MAX_ELEMENTS ((UINT32_C(1) << 28) - 1)
#define PLC_MAX_TYPE_DEPTH 64
/* Fields of a composite, columns of a result. */
#define PLC_MAX_COLUMNS 1664
#define PLC_MAX_PLANS 10000
#define PLC_MAX_SOURCE (UINT32_C(16) << 20)
#define PLC_MAX_FIELDS 16

#define PLC_FLAG_REPLY 0x01
#define PLC_FLAG_MORE 0x02
#define PLC_FLAGS_KNOWN (PLC_FLAG_REPLY | PLC_FLAG_MORE)

typedef enum plc_message
{
	PLC_PING = 1,
	PLC_CALLREQ = 2,
	PLC_RESULT = 3,
	PLC_ERROR = 4,
	PLC_LOG = 5,
	PLC_SQL = 6,
	PLC_SUBTRANSACTION = 7,
	PLC_RAW = 8,
	PLC_REGISTER = 9,
	PLC_FORGET = 10,
	PLC_ROWS = 11,
	PLC_CREDIT = 12,
	PLC_CANCEL = 13,
	PLC_CHECK = 14,
	PLC_LEASE = 32,
	PLC_GRANT = 33,
	PLC_RECLAIM = 34,
	PLC_RECLAIMED = 35,
	PLC_EXITED = 36,
	PLC_QUERY = 37,
	PLC_ANSWER = 38,
	PLC_STATISTICS = 39
} plc_message;

typedef enum plc_kind
{
	PLC_VOID = 0,
	PLC_BOOL = 1,
	PLC_INT2 = 2,
	PLC_INT4 = 3,
	PLC_INT8 = 4,
	PLC_FLOAT4 = 5,
	PLC_FLOAT8 = 6,
	PLC_TEXT = 7,
	PLC_BYTEA = 8,
	PLC_NUMERIC = 9,
	PLC_OTHER = 10,
	PLC_OID = 11,
	PLC_ARRAY = 16,
	PLC_COMPOSITE = 17,
	PLC_RECORD = 18
} plc_kind;

typedef enum plc_form
{
	PLC_FORM_NULL = 0,
	PLC_FORM_BINARY = 1,
	PLC_FORM_TEXT = 2,
	PLC_FORM_ABSENT = 3
} plc_form;

#define PLC_ARRAY_HAS_NULLS 0x01
#define PLC_ARRAY_TEXT_ELEMENTS 0x02
#define PLC_ARRAY_FLAGS_KNOWN (PLC_ARRAY_HAS_NULLS | PLC_ARRAY_TEXT_ELEMENTS)

/* Flags of a Register. */
#define PLC_FUNCTION_SET 0x01
#define PLC_FUNCTION_TRIGGER 0x02
#define PLC_FUNCTION_EVENT_TRIGGER 0x04
#define PLC_FUNCTION_PROCEDURE 0x08
#define PLC_FUNCTION_NUMPY 0x10
#define PLC_FUNCTION_INLINE 0x20

typedef enum plc_sql_verb
{
	PLC_SQL_EXECUTE = 1,
	PLC_SQL_PREPARE = 2,
	PLC_SQL_EXECUTE_PLAN = 3,
	PLC_SQL_OPEN = 4,
	PLC_SQL_OPEN_PLAN = 5,
	PLC_SQL_FETCH = 6,
	PLC_SQL_CLOSE = 7,
	PLC_SQL_COMMIT = 8,
	PLC_SQL_ROLLBACK = 9,
	PLC_SQL_DISCARD = 10
} plc_sql_verb;

typedef enum plc_subtransaction_verb
{
	PLC_SUBTRANSACTION_BEGIN = 1,
	PLC_SUBTRANSACTION_COMMIT = 2,
	PLC_SUBTRANSACTION_ROLLBACK = 3
} plc_subtransaction_verb;

typedef enum plc_trigger_action
{
	PLC_TRIGGER_UNCHANGED = 0,
	PLC_TRIGGER_SKIP = 1,
	PLC_TRIGGER_MODIFY = 2
} plc_trigger_action;

typedef enum plc_log_level
{
	PLC_LOG_DEBUG = 1,
	PLC_LOG_LOG = 2,
	PLC_LOG_INFO = 3,
	PLC_LOG_NOTICE = 4,
	PLC_LOG_WARNING = 5
} plc_log_level;

typedef struct plc_header
{
	uint32_t	call_id;
	uint8_t		type;
	uint8_t		flags;
	uint64_t	length;			/* bytes of payload */
} plc_header;

/* A piece of a frame: never NUL-terminated, valid as long as the frame is. */
typedef struct plc_span
{
	const char *data;
	uint32_t	length;
} plc_span;

/*
 * A reader walks over one payload. Its first error stays: later reads return
 * zeroes, so that a caller may read a whole message and look once.
 */
typedef struct plc_reader
{
	const uint8_t *start;
	const uint8_t *cursor;
	const uint8_t *end;
	const char *error;			/* NULL while all is well */
} plc_reader;

/*
 * Grows a writer's memory to at least `capacity` bytes. Returns NULL when there is
 * none (the writer then fails), or leaves by a jump of its own.
 */
typedef void *(*plc_resize) (void *data, size_t capacity);

/* Bytes of the caller's that belong into a frame but are not copied. */
typedef struct plc_splice
{
	size_t		at;				/* they follow this many bytes of the writer's data */
	const void *data;
	size_t		length;
} plc_splice;

#define PLC_MAX_SPLICES 8
/* Below this, copying is cheaper than one more vector of a sendmsg(). */
#define PLC_SPLICE_MIN 65536

typedef struct plc_writer
{
	uint8_t    *data;
	size_t		length;
	size_t		capacity;
	size_t		frame;			/* where the frame being written begins, */
	size_t		frame_spliced;	/* and how much was spliced before it */
	size_t		spliced;		/* bytes of all splices */
	int			nsplices;
	plc_splice	splices[PLC_MAX_SPLICES];
	plc_resize	resize;
	const char *error;			/* NULL while all is well */
} plc_writer;

/* The head of an array value, checked against the payload it lies in. */
typedef struct plc_array
{
	int			ndim;
	uint8_t		flags;
	int32_t		lengths[PLC_MAX_DIMENSIONS];
	int32_t		bounds[PLC_MAX_DIMENSIONS];
	uint32_t	count;			/* elements in all */
	const uint8_t *nulls;		/* bitmap, or NULL */
	const uint8_t *elements;	/* count * size bytes, or NULL for a `str` or a value each */
} plc_array;

typedef struct plc_field
{
	char		key;
	plc_span	value;
} plc_field;

typedef struct plc_fields
{
	int			count;
	plc_field	items[PLC_MAX_FIELDS];
} plc_fields;

/* Bytes of one element of a kind; 0 when its elements are a `str` or a value each. */
static inline size_t
plc_kind_size(plc_kind kind)
{
	switch (kind)
	{
		case PLC_BOOL:
			return 1;
		case PLC_INT2:
			return 2;
		case PLC_INT4:
		case PLC_FLOAT4:
		case PLC_OID:
			return 4;
		case PLC_INT8:
		case PLC_FLOAT8:
			return 8;
		default:
			return 0;
	}
}

/* --- reading ------------------------------------------------------------ */

/* Decodes 16 bytes. Returns NULL, or what is wrong with them. */
extern const char *plc_header_decode(const uint8_t *bytes, uint64_t max_frame, plc_header *header);

static inline void
plc_reader_init(plc_reader *reader, const void *payload, size_t length)
{
	reader->start = reader->cursor = (const uint8_t *) payload;
	reader->end = reader->start + length;
	reader->error = NULL;
}

static inline void
plc_reader_fail(plc_reader *reader, const char *error)
{
	if (reader->error == NULL)
		reader->error = error;
	reader->cursor = reader->end;
}

static inline const uint8_t *
plc_take(plc_reader *reader, size_t length)
{
	const uint8_t *taken = reader->cursor;

	if ((size_t) (reader->end - taken) < length || reader->error != NULL)
	{
		plc_reader_fail(reader, "message ends within a field");
		return NULL;
	}
	reader->cursor += length;
	return taken;
}

#define PLC_DEFINE_READ(name, ctype) \
static inline ctype \
plc_read_##name(plc_reader *reader) \
{ \
	ctype		value = 0; \
	const uint8_t *bytes = plc_take(reader, sizeof(ctype)); \
\
	if (bytes != NULL) \
		memcpy(&value, bytes, sizeof(ctype)); \
	return value; \
}

PLC_DEFINE_READ(u8, uint8_t)
PLC_DEFINE_READ(u16, uint16_t)
PLC_DEFINE_READ(u32, uint32_t)
PLC_DEFINE_READ(u64, uint64_t)
PLC_DEFINE_READ(i16, int16_t)
PLC_DEFINE_READ(i32, int32_t)
PLC_DEFINE_READ(i64, int64_t)
PLC_DEFINE_READ(f32, float)
PLC_DEFINE_READ(f64, double)

static inline plc_span
plc_read_str(plc_reader *reader)
{
	plc_span	span = {NULL, 0};
	uint32_t	length = plc_read_u32(reader);
	const uint8_t *bytes = plc_take(reader, length);

	if (bytes != NULL)
	{
		span.data = (const char *) bytes;
		span.length = length;
	}
	return span;
}

/* Whether each element of an array of this kind is a value, with a form of its own. */
static inline bool
plc_kind_is_row(plc_kind kind)
{
	return kind == PLC_COMPOSITE || kind == PLC_RECORD;
}

/*
 * Reads the head of an array in form BINARY whose elements are of `kind`, and takes
 * its fixed-size elements; elements that are a `str` or a value are left to be read one by one.
 */
extern void plc_read_array(plc_reader *reader, plc_kind kind, plc_array *array);

static inline bool
plc_array_is_null(const plc_array *array, uint32_t i)
{
	return array->nulls != NULL && (array->nulls[i >> 3] & (1 << (i & 7))) != 0;
}

/* Reads the fields of an Error or Log up to their end mark. */
extern void plc_read_fields(plc_reader *reader, plc_fields *fields);

/* The value of a field; data is NULL where there is none. */
extern plc_span plc_field_value(const plc_fields *fields, char key);

/* Fails unless the whole payload was read. Returns whether all was well. */
extern bool plc_read_end(plc_reader *reader);

/* Whether five bytes are a SQLSTATE. */
extern bool plc_is_sqlstate(plc_span span);

/* --- writing ------------------------------------------------------------ */

static inline void
plc_writer_init(plc_writer *writer, plc_resize resize)
{
	memset(writer, 0, sizeof(*writer));
	writer->resize = resize;
}

/* Makes room for `length` more bytes. */
extern bool plc_reserve(plc_writer *writer, size_t length);

/* Room for `length` bytes which the caller fills in; NULL when there is no memory. */
static inline uint8_t *
plc_put(plc_writer *writer, size_t length)
{
	uint8_t    *place;

	if (writer->capacity - writer->length < length && !plc_reserve(writer, length))
		return NULL;
	place = writer->data + writer->length;
	writer->length += length;
	return place;
}

static inline void
plc_write_bytes(plc_writer *writer, const void *bytes, size_t length)
{
	uint8_t    *place = plc_put(writer, length);

	if (place != NULL && length > 0)
		memcpy(place, bytes, length);
}

/*
 * Writes bytes that stay where they are until the frame was sent. Returns whether
 * they were spliced; otherwise they were copied.
 */
extern bool plc_write_spliced(plc_writer *writer, const void *bytes, size_t length);

/* Begins anew, keeping the memory. */
static inline void
plc_writer_reset(plc_writer *writer)
{
	writer->length = writer->spliced = 0;
	writer->nsplices = 0;
	writer->error = NULL;
}

/* Bytes of the frame being written, header and splices included. */
static inline size_t
plc_frame_size(const plc_writer *writer)
{
	return writer->length - writer->frame + writer->spliced - writer->frame_spliced;
}

#define PLC_DEFINE_WRITE(name, ctype) \
static inline void \
plc_write_##name(plc_writer *writer, ctype value) \
{ \
	plc_write_bytes(writer, &value, sizeof(ctype)); \
}

PLC_DEFINE_WRITE(u8, uint8_t)
PLC_DEFINE_WRITE(u16, uint16_t)
PLC_DEFINE_WRITE(u32, uint32_t)
PLC_DEFINE_WRITE(u64, uint64_t)
PLC_DEFINE_WRITE(i16, int16_t)
PLC_DEFINE_WRITE(i32, int32_t)
PLC_DEFINE_WRITE(i64, int64_t)
PLC_DEFINE_WRITE(f32, float)
PLC_DEFINE_WRITE(f64, double)

/* Writes a `str`; one that no u32 can count fails the writer. */
extern void plc_write_str(plc_writer *writer, const char *data, size_t length);

/* Writes zero bytes up to the next multiple of 8 from the start of the payload. */
extern void plc_write_padding(plc_writer *writer);

/*
 * Writes the head of an array value, its bitmap and padding. `nulls` may be NULL; it has
 * one byte per element, not 0 for NULL.
 */
extern void plc_write_array(plc_writer *writer, plc_kind kind, uint8_t flags, int ndim,
							const int32_t *lengths, const int32_t *bounds, const bool *nulls);

extern void plc_write_field(plc_writer *writer, char key, const char *data, size_t length);

/* Begins a frame at the end of what is there; plc_frame_end fills its length in. */
extern void plc_frame_begin(plc_writer *writer, uint32_t call_id, plc_message type, uint8_t flags);
extern void plc_frame_end(plc_writer *writer);

#endif							/* PLC_PROTOCOL_H */
