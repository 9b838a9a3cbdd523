/*
 * plc_protocol.c
 *		The parts of the wire codec that are too large to be inline.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "plc_protocol.h"

const char *
plc_header_decode(const uint8_t *bytes, uint64_t max_frame, plc_header *header)
{
	uint16_t	reserved;

	memcpy(&header->call_id, bytes, 4);
	header->type = bytes[4];
	header->flags = bytes[5];
	memcpy(&reserved, bytes + 6, 2);
	memcpy(&header->length, bytes + 8, 8);
	if (reserved != 0)
		return "reserved bits of a frame header are set";
	if ((header->flags & ~PLC_FLAGS_KNOWN) != 0)
		return "unknown flags in a frame header";
	if (header->length > max_frame)
		return "frame is longer than allowed";
	return NULL;
}

/* The number of elements, or 0 with an error when the dimensions are not possible. */
static uint32_t
read_dimensions(plc_reader *reader, plc_array *array)
{
	uint64_t	count = array->ndim > 0 ? 1 : 0;

	for (int i = 0; i < array->ndim; i++)
	{
		array->lengths[i] = plc_read_i32(reader);
		array->bounds[i] = plc_read_i32(reader);
		if (reader->error != NULL)
			return 0;
		if (array->lengths[i] < 1)
		{
			plc_reader_fail(reader, "array has a dimension without elements");
			return 0;
		}
		if (array->bounds[i] > INT32_MAX - array->lengths[i])
		{
			plc_reader_fail(reader, "array has a lower bound out of range");
			return 0;
		}
		/* Each factor fits 31 bits and the product so far 28: no overflow. */
		count *= (uint64_t) array->lengths[i];
		if (count > PLC_MAX_ELEMENTS)
		{
			plc_reader_fail(reader, "array has too many elements");
			return 0;
		}
	}
	return (uint32_t) count;
}

static void
read_null_bitmap(plc_reader *reader, plc_array *array)
{
	uint32_t	used = array->count & 7;
	size_t		size = ((size_t) array->count + 7) / 8;

	array->nulls = plc_take(reader, size);
	if (array->nulls != NULL && used != 0 && (array->nulls[size - 1] >> used) != 0)
		plc_reader_fail(reader, "bits behind the last element of an array are set");
}

static void
read_padding(plc_reader *reader)
{
	size_t		offset = (size_t) (reader->cursor - reader->start);
	size_t		length = (8 - (offset & 7)) & 7;
	const uint8_t *bytes = plc_take(reader, length);

	for (size_t i = 0; bytes != NULL && i < length; i++)
		if (bytes[i] != 0)
		{
			plc_reader_fail(reader, "padding is not zero");
			return;
		}
}

void
plc_read_array(plc_reader *reader, plc_kind kind, plc_array *array)
{
	size_t		size = plc_kind_size(kind);

	memset(array, 0, sizeof(*array));
	array->ndim = plc_read_u8(reader);
	array->flags = plc_read_u8(reader);
	if (plc_read_u16(reader) != 0)
		plc_reader_fail(reader, "reserved bits of an array are set");
	if (array->ndim > PLC_MAX_DIMENSIONS)
		plc_reader_fail(reader, "array has too many dimensions");
	if ((array->flags & ~PLC_ARRAY_FLAGS_KNOWN) != 0)
		plc_reader_fail(reader, "unknown flags of an array");
	if ((array->flags & PLC_ARRAY_TEXT_ELEMENTS) != 0 && plc_kind_is_row(kind))
		plc_reader_fail(reader, "rows of an array are said to be text");
	if (reader->error != NULL)
	{
		array->ndim = 0;
		return;
	}
	array->count = read_dimensions(reader, array);
	if ((array->flags & PLC_ARRAY_HAS_NULLS) != 0)
		read_null_bitmap(reader, array);
	if (size > 0 && (array->flags & PLC_ARRAY_TEXT_ELEMENTS) == 0)
	{
		read_padding(reader);
		array->elements = plc_take(reader, size * array->count);
	}
	else if (reader->error == NULL)
	{
		/* Refused here, so that no receiver allocates for what can't be there. */
		size_t		present = array->count;
		size_t		least = plc_kind_is_row(kind) ? sizeof(uint8_t) : sizeof(uint32_t);

		for (uint32_t i = 0; array->nulls != NULL && i < array->count; i++)
			present -= plc_array_is_null(array, i) ? 1 : 0;
		if ((size_t) (reader->end - reader->cursor) / least < present)
			plc_reader_fail(reader, "message ends within an array");
	}
	if (reader->error != NULL)
		array->count = 0;
}

void
plc_read_fields(plc_reader *reader, plc_fields *fields)
{
	fields->count = 0;
	for (;;)
	{
		char		key = (char) plc_read_u8(reader);

		if (reader->error != NULL || key == '\0')
			break;
		if (fields->count == PLC_MAX_FIELDS || plc_field_value(fields, key).data != NULL)
		{
			plc_reader_fail(reader, "too many fields, or one of them twice");
			break;
		}
		fields->items[fields->count].key = key;
		fields->items[fields->count].value = plc_read_str(reader);
		fields->count++;
	}
	if (reader->error == NULL && plc_field_value(fields, 'M').data == NULL)
		plc_reader_fail(reader, "message text is missing");
	if (reader->error == NULL)
	{
		plc_span	sqlstate = plc_field_value(fields, 'C');

		if (sqlstate.data != NULL && !plc_is_sqlstate(sqlstate))
			plc_reader_fail(reader, "malformed SQLSTATE");
	}
	if (reader->error != NULL)
		fields->count = 0;
}

plc_span
plc_field_value(const plc_fields *fields, char key)
{
	plc_span	none = {NULL, 0};

	for (int i = 0; i < fields->count; i++)
		if (fields->items[i].key == key)
			return fields->items[i].value;
	return none;
}

bool
plc_read_end(plc_reader *reader)
{
	if (reader->error == NULL && reader->cursor != reader->end)
		plc_reader_fail(reader, "bytes are left at the end of a message");
	return reader->error == NULL;
}

bool
plc_is_sqlstate(plc_span span)
{
	if (span.length != 5)
		return false;
	for (int i = 0; i < 5; i++)
	{
		char		c = span.data[i];

		if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z')))
			return false;
	}
	return true;
}

bool
plc_reserve(plc_writer *writer, size_t length)
{
	size_t		capacity = writer->capacity < 512 ? 512 : writer->capacity;
	void	   *data;

	if (writer->error != NULL || length > SIZE_MAX / 4 || writer->length > SIZE_MAX / 4)
	{
		if (writer->error == NULL)
			writer->error = "frame is too large";
		return false;
	}
	while (capacity < writer->length + length)
		capacity *= 2;
	data = writer->resize(writer->data, capacity);
	if (data == NULL)
	{
		writer->error = "out of memory";
		return false;
	}
	writer->data = data;
	writer->capacity = capacity;
	return true;
}

bool
plc_write_spliced(plc_writer *writer, const void *bytes, size_t length)
{
	if (length < PLC_SPLICE_MIN || writer->nsplices == PLC_MAX_SPLICES)
	{
		plc_write_bytes(writer, bytes, length);
		return false;
	}
	writer->splices[writer->nsplices].at = writer->length;
	writer->splices[writer->nsplices].data = bytes;
	writer->splices[writer->nsplices].length = length;
	writer->nsplices++;
	writer->spliced += length;
	return true;
}

void
plc_write_str(plc_writer *writer, const char *data, size_t length)
{
	if (length > UINT32_MAX)
	{
		writer->error = "string is too long";
		return;
	}
	plc_write_u32(writer, (uint32_t) length);
	plc_write_bytes(writer, data, length);
}

void
plc_write_padding(plc_writer *writer)
{
	/* A header has 16 bytes: from the frame's start the multiples are the same. */
	size_t		length = (8 - (plc_frame_size(writer) & 7)) & 7;
	static const uint8_t zeroes[8];

	plc_write_bytes(writer, zeroes, length);
}

void
plc_write_array(plc_writer *writer, plc_kind kind, uint8_t flags, int ndim,
				const int32_t *lengths, const int32_t *bounds, const bool *nulls)
{
	size_t		count = ndim > 0 ? 1 : 0;

	for (int i = 0; i < ndim; i++)
		count *= (size_t) lengths[i];
	if (nulls != NULL)
		flags |= PLC_ARRAY_HAS_NULLS;
	plc_write_u8(writer, (uint8_t) ndim);
	plc_write_u8(writer, flags);
	plc_write_u16(writer, 0);
	for (int i = 0; i < ndim; i++)
	{
		plc_write_i32(writer, lengths[i]);
		plc_write_i32(writer, bounds[i]);
	}
	if (nulls != NULL)
	{
		size_t		size = (count + 7) / 8;
		uint8_t    *bitmap = plc_put(writer, size);

		if (bitmap != NULL)
		{
			memset(bitmap, 0, size);
			for (size_t i = 0; i < count; i++)
				if (nulls[i])
					bitmap[i >> 3] |= (uint8_t) (1 << (i & 7));
		}
	}
	if (plc_kind_size(kind) > 0 && (flags & PLC_ARRAY_TEXT_ELEMENTS) == 0)
		plc_write_padding(writer);
}

void
plc_write_field(plc_writer *writer, char key, const char *data, size_t length)
{
	plc_write_u8(writer, (uint8_t) key);
	plc_write_str(writer, data, length);
}

void
plc_frame_begin(plc_writer *writer, uint32_t call_id, plc_message type, uint8_t flags)
{
	writer->frame = writer->length;
	writer->frame_spliced = writer->spliced;
	plc_write_u32(writer, call_id);
	plc_write_u8(writer, (uint8_t) type);
	plc_write_u8(writer, flags);
	plc_write_u16(writer, 0);
	plc_write_u64(writer, 0);
}

void
plc_frame_end(plc_writer *writer)
{
	uint64_t	length = plc_frame_size(writer) - PLC_HEADER_SIZE;

	if (writer->error == NULL)
		memcpy(writer->data + writer->frame + 8, &length, sizeof(length));
}
