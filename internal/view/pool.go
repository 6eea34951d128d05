package view

import "github.com/jackc/pgx/v5/pgxpool"

// Reads is the pool for reads, for health checks and metrics: what they ask must not cost the workers anything either.
func (db *DB) Reads() *pgxpool.Pool { return db.reads.pool }
