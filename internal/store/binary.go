package store

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// What claim answers and settle is told of each job, in PostgreSQL's binary format. Null reads as zero. By hand, because pgx's
// general way takes longer than all the rest that a worker does for a job.

func readInt8(b []byte) int64 {
	if b == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func readInt4(b []byte) int32 {
	if b == nil {
		return 0
	}
	return int32(binary.BigEndian.Uint32(b))
}

func readInt2(b []byte) int16 {
	if b == nil {
		return 0
	}
	return int16(binary.BigEndian.Uint16(b))
}

func readBool(b []byte) bool { return b != nil && b[0] != 0 }

func readTID(b []byte) pgtype.TID {
	if b == nil {
		return pgtype.TID{}
	}
	return pgtype.TID{BlockNumber: binary.BigEndian.Uint32(b), OffsetNumber: binary.BigEndian.Uint16(b[4:]), Valid: true}
}

// The times of PostgreSQL that Go's cannot hold: far enough away, and they come back as they were (see Mark).
var (
	past   = time.Date(-4712, 1, 1, 0, 0, 0, 0, time.UTC)
	future = time.Date(294276, 12, 31, 0, 0, 0, 0, time.UTC)
)

const epoch = 946684800 // 2000-01-01, where timestamps count from, in Unix seconds

func readTime(b []byte) time.Time {
	if b == nil {
		return time.Time{}
	}
	switch us := readInt8(b); us {
	case math.MinInt64:
		return past
	case math.MaxInt64:
		return future
	default:
		return time.Unix(epoch+us/1e6, us%1e6*1e3)
	}
}

// readInterval takes a month for 30 days, as PostgreSQL does where it compares intervals.
func readInterval(b []byte) time.Duration {
	if b == nil {
		return 0
	}
	us, days, months := readInt8(b), readInt4(b[8:]), readInt4(b[12:])
	return time.Duration(us)*time.Microsecond + time.Duration(days+30*months)*24*time.Hour
}

// encoded is an argument that pipeline.send sends as it is.
type encoded []byte

// int8Array and tidArray are nil, which is null, for nil.
func int8Array(list []int64) encoded {
	if list == nil {
		return nil
	}
	b := arrayOf(pgtype.Int8OID, len(list), 8)
	for _, v := range list {
		b = binary.BigEndian.AppendUint32(b, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

func tidArray(list []pgtype.TID) encoded {
	if list == nil {
		return nil
	}
	b := arrayOf(pgtype.TIDOID, len(list), 6)
	for _, v := range list {
		if !v.Valid {
			b = binary.BigEndian.AppendUint32(b, math.MaxUint32) // null
			continue
		}
		b = binary.BigEndian.AppendUint32(b, 6)
		b = binary.BigEndian.AppendUint32(b, v.BlockNumber)
		b = binary.BigEndian.AppendUint16(b, v.OffsetNumber)
	}
	return b
}

// arrayOf is the beginning of an array of n elements of so many bytes, with room for them.
func arrayOf(oid uint32, n, size int) encoded {
	b := make(encoded, 0, 20+n*(4+size))
	if n == 0 {
		b = binary.BigEndian.AppendUint32(b, 0) // dimensions
		b = binary.BigEndian.AppendUint32(b, 0)
		return binary.BigEndian.AppendUint32(b, oid)
	}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, 1) // there may be nulls
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return binary.BigEndian.AppendUint32(b, 1) // counted from 1
}
