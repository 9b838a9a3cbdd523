/*
 * codec_probe.c
 *		Takes vectors through the C codec: reads a line, decodes it with the codec's
 *		readers, encodes what it found with the codec's writers, prints the bytes.
 *
 *	value KIND ELEMENT RESULT HEX	a value; RESULT is 1 where form TEXT is allowed
 *	fields HEX						the fields of an Error
 *	frame MAX_FRAME HEX				a frame; its payload is copied
 *
 * Prints hexadecimal digits, or "refused" and the reason.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdio.h>
#include <stdlib.h>

#include "plc_protocol.h"

#define LINE_SIZE 100000

static char line[LINE_SIZE];

static size_t
parse_hex(const char *text, uint8_t *bytes)
{
	size_t		count = 0;
	unsigned int byte;

	while (sscanf(text + 2 * count, "%2x", &byte) == 1)
		bytes[count++] = (uint8_t) byte;
	return count;
}

static void
copy_str(plc_reader *reader, plc_writer *writer)
{
	plc_span	span = plc_read_str(reader);

	plc_write_str(writer, span.data, span.length);
}

static void
copy_array(plc_reader *reader, plc_writer *writer, plc_kind kind, bool result)
{
	plc_array	array;
	bool		has_nulls;
	bool	   *nulls;

	plc_read_array(reader, kind, &array);
	if (!result && (array.flags & PLC_ARRAY_TEXT_ELEMENTS) != 0)
		plc_reader_fail(reader, "form is not allowed here");
	if (reader->error != NULL)
		return;
	has_nulls = array.nulls != NULL;
	nulls = calloc(array.count + 1, sizeof(bool));
	for (uint32_t i = 0; i < array.count; i++)
		nulls[i] = plc_array_is_null(&array, i);
	plc_write_array(writer, kind, array.flags & PLC_ARRAY_TEXT_ELEMENTS, array.ndim, array.lengths, array.bounds,
					has_nulls ? nulls : NULL);
	if (array.elements != NULL)
		plc_write_bytes(writer, array.elements, plc_kind_size(kind) * array.count);
	for (uint32_t i = 0; array.elements == NULL && i < array.count; i++)
		if (!nulls[i])
			copy_str(reader, writer);
	free(nulls);
}

static void
copy_value(plc_reader *reader, plc_writer *writer, plc_kind kind, plc_kind element, bool result)
{
	uint8_t		form = plc_read_u8(reader);
	size_t		size = plc_kind_size(kind);
	const uint8_t *bytes;

	plc_write_u8(writer, form);
	if (form == PLC_FORM_NULL)
		return;
	if (form > PLC_FORM_TEXT || (form == PLC_FORM_TEXT && !result) || kind == PLC_VOID)
		plc_reader_fail(reader, "form is not allowed here");
	else if (form == PLC_FORM_TEXT || (size == 0 && kind != PLC_ARRAY))
		copy_str(reader, writer);
	else if (kind == PLC_ARRAY)
		copy_array(reader, writer, element, result);
	else if ((bytes = plc_take(reader, size)) != NULL)
		plc_write_bytes(writer, bytes, size);
}

static void
copy_fields(plc_reader *reader, plc_writer *writer)
{
	plc_fields	fields;

	plc_read_fields(reader, &fields);
	for (int i = 0; i < fields.count; i++)
		plc_write_field(writer, fields.items[i].key, fields.items[i].value.data, fields.items[i].value.length);
	plc_write_u8(writer, 0);
}

static void
copy_frame(plc_reader *reader, plc_writer *writer, uint64_t max_frame)
{
	plc_header	header;
	const uint8_t *bytes = plc_take(reader, PLC_HEADER_SIZE);
	const char *error = bytes == NULL ? reader->error : plc_header_decode(bytes, max_frame, &header);

	if (error != NULL)
	{
		plc_reader_fail(reader, error);
		return;
	}
	plc_frame_begin(writer, header.call_id, header.type, header.flags);
	bytes = plc_take(reader, header.length);
	if (bytes != NULL)
		plc_write_bytes(writer, bytes, header.length);
	plc_frame_end(writer);
}

int
main(void)
{
	static uint8_t bytes[LINE_SIZE / 2];
	static char hex[LINE_SIZE];

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		plc_reader	reader;
		plc_writer	writer;
		unsigned int kind;
		unsigned int element;
		unsigned int result;
		unsigned long long max_frame;

		hex[0] = '\0';
		plc_writer_init(&writer, realloc);
		if (sscanf(line, "value %u %u %u %s", &kind, &element, &result, hex) >= 3)
		{
			plc_reader_init(&reader, bytes, parse_hex(hex, bytes));
			copy_value(&reader, &writer, (plc_kind) kind, (plc_kind) element, result == 1);
		}
		else if (sscanf(line, "frame %llu %s", &max_frame, hex) >= 1)
		{
			plc_reader_init(&reader, bytes, parse_hex(hex, bytes));
			copy_frame(&reader, &writer, max_frame);
		}
		else if (sscanf(line, "fields %s", hex) >= 1 || strncmp(line, "fields", 6) == 0)
		{
			plc_reader_init(&reader, bytes, parse_hex(hex, bytes));
			copy_fields(&reader, &writer);
		}
		else
			return 2;
		if (!plc_read_end(&reader))
			printf("refused: %s", reader.error);
		for (size_t i = 0; reader.error == NULL && i < writer.length; i++)
			printf("%02x", writer.data[i]);
		printf("\n");
		free(writer.data);
	}
	return 0;
}
