package store

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// Our readers read what pgx writes, and nulls as zero; pgx reads what our writers write.
func FuzzBinary(f *testing.F) {
	f.Add(int64(0), int32(0), int16(0), false, uint32(0), uint16(0))
	f.Add(int64(math.MinInt64), int32(math.MinInt32), int16(math.MinInt16), true, uint32(math.MaxUint32), uint16(math.MaxUint16))
	f.Add(int64(math.MaxInt64), int32(math.MaxInt32), int16(math.MaxInt16), true, uint32(1), uint16(1))
	f.Add(int64(-1), int32(-1), int16(-1), false, uint32(1<<31), uint16(1<<15))
	f.Add(int64(minTimestamp), int32(31), int16(13), false, uint32(7), uint16(7))
	f.Add(int64(maxTimestamp), int32(-31), int16(-13), false, uint32(7), uint16(7))
	types := pgtype.NewMap()
	f.Fuzz(func(t *testing.T, i8 int64, i4 int32, i2 int16, b bool, block uint32, offset uint16) {
		write := func(oid uint32, v any) []byte {
			t.Helper()
			bytes, err := types.Encode(oid, pgtype.BinaryFormatCode, v, nil)
			if err != nil {
				t.Fatal(err)
			}
			return bytes
		}
		if got := readInt8(write(pgtype.Int8OID, i8)); got != i8 {
			t.Errorf("%d was read as %d", i8, got)
		}
		if got := readInt4(write(pgtype.Int4OID, i4)); got != i4 {
			t.Errorf("%d was read as %d", i4, got)
		}
		if got := readInt2(write(pgtype.Int2OID, i2)); got != i2 {
			t.Errorf("%d was read as %d", i2, got)
		}
		if got := readBool(write(pgtype.BoolOID, b)); got != b {
			t.Errorf("%v was read as %v", b, got)
		}
		place := pgtype.TID{BlockNumber: block, OffsetNumber: offset, Valid: true}
		if got := readTID(write(pgtype.TIDOID, place)); got != place {
			t.Errorf("%v was read as %v", place, got)
		}
		days, months := i4%100_000, int32(i2)
		interval := pgtype.Interval{Microseconds: i8 % (1 << 50), Days: days % 30_000, Months: months % 1000, Valid: true}
		want := time.Duration(interval.Microseconds)*time.Microsecond + time.Duration(interval.Days+30*interval.Months)*24*time.Hour
		if got := readInterval(write(pgtype.IntervalOID, interval)); got != want {
			t.Errorf("%v was read as %v", interval, got)
		}

		// And pgx reads what our writers write.
		var numbers []int64
		if list := []int64{i8, int64(i4), math.MinInt64}; types.Scan(pgtype.Int8ArrayOID, pgtype.BinaryFormatCode, int8Array(list), &numbers) != nil || !slices.Equal(numbers, list) {
			t.Errorf("%v was written as %v", list, numbers)
		}
		var places []pgtype.TID
		if list := []pgtype.TID{place, {}, place}; types.Scan(pgtype.TIDArrayOID, pgtype.BinaryFormatCode, tidArray(list), &places) != nil || !slices.Equal(places, list) {
			t.Errorf("%v was written as %v", list, places)
		}

		// A time goes back to the server, as a mark: to the microsecond, and never as one that the server refuses.
		raw := write(pgtype.Int8OID, i8) // the same bytes
		at := readTime(raw)
		again := readInt8(write(pgtype.TimestamptzOID, at))
		switch {
		case i8 == math.MinInt64 || i8 == math.MaxInt64:
			if again < minTimestamp || again >= maxTimestamp {
				t.Errorf("infinity was read as %v, which is out of range", at)
			}
		case i8 >= minTimestamp && i8 < maxTimestamp:
			if again != i8 {
				t.Errorf("%d µs was read as %v, and written as %d µs", i8, at, again)
			}
		}
	})
	for _, zero := range []bool{readInt8(nil) == 0, readInt4(nil) == 0, readInt2(nil) == 0, !readBool(nil), readTID(nil) == pgtype.TID{}, readTime(nil).IsZero(), readInterval(nil) == 0} {
		if !zero {
			f.Error("null is not read as zero")
		}
	}
	var numbers []int64
	if err := types.Scan(pgtype.Int8ArrayOID, pgtype.BinaryFormatCode, int8Array([]int64{}), &numbers); err != nil || numbers == nil || len(numbers) > 0 {
		f.Errorf("no numbers were written as %v, %v", numbers, err)
	}
	if int8Array(nil) != nil || tidArray(nil) != nil {
		f.Error("nil is not null")
	}
}

// What PostgreSQL takes for a timestamp: from 4714-11-24 BC until before the year 294277.
const (
	minTimestamp = -211813488000000000
	maxTimestamp = 9223371331200000000
)
