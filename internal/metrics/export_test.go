package metrics

import "time"

// Away makes the last look one of that long ago.
func Away(d *Database, ago time.Duration) {
	Forget(d)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from = d.from.Add(-ago)
}

// Forget makes the next look a new one.
func Forget(d *Database) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = time.Time{}
}
