package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Offer offers a slot of a worker to who adds a job, or takes the offer back.
type Offer struct {
	Worker  int32
	Channel string // where the worker is told; "" takes the offer back
	Tasks   []int32

	Stood bool // the answer: nobody had taken it
}

func (o *Offer) args() []any {
	if o.Channel == "" {
		return []any{o.Worker, nil, nil}
	}
	return []any{o.Worker, o.Channel, o.Tasks}
}

// OfferChannel is a new name for a channel that nobody can guess: what is sent there are jobs with their payloads.
func OfferChannel() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return "offstage:" + hex.EncodeToString(b[:])
}

// LockOffer makes offers hold as long as this session does.
func (s *Store) LockOffer(ctx context.Context, conn *pgx.Conn, worker int32) error {
	_, err := conn.Exec(ctx, s.fn(`select offstage.offer_lock($1)`), worker)
	return Fault(err)
}

// ReadGiven reads the job that somebody has added and claimed for the worker, from a notification.
func ReadGiven(text string) (Claimed, error) {
	var g struct {
		Claim       int64           `json:"claim"`
		JobID       int64           `json:"job_id"`
		Task        int32           `json:"task_id"`
		Priority    int16           `json:"priority"`
		RunAt       *float64        `json:"run_at"` // Unix seconds, as added_at; null: for ever
		AddedAt     float64         `json:"added_at"`
		MaxAttempts int16           `json:"max_attempts"`
		Timeout     float64         `json:"timeout"` // seconds
		Traceparent string          `json:"traceparent"`
		Expired     bool            `json:"expired"`
		Place       string          `json:"place"`
		Payload     json.RawMessage `json:"payload"`
	}
	if err := json.Unmarshal([]byte(text), &g); err != nil {
		return Claimed{}, fmt.Errorf("a job that was given: %w", err)
	}
	c := Claimed{
		Claim: g.Claim, JobID: g.JobID, Lane: g.Task, Priority: g.Priority, RunAt: past, TaskID: g.Task, Attempt: 1, MaxAttempts: g.MaxAttempts,
		AddedAt: unixTime(g.AddedAt), Timeout: time.Duration(g.Timeout * float64(time.Second)), Traceparent: g.Traceparent, Expired: g.Expired, Payload: g.Payload,
	}
	if g.RunAt != nil {
		c.RunAt = unixTime(*g.RunAt)
	}
	var place pgtype.TID
	if n, _ := fmt.Sscanf(g.Place, "(%d,%d)", &place.BlockNumber, &place.OffsetNumber); n == 2 {
		place.Valid = true
		c.Place = place
	}
	return c, nil
}

func unixTime(seconds float64) time.Time { return time.UnixMicro(int64(math.Round(seconds * 1e6))) }
