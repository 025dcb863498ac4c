// Package remember keeps what was learned about upstreams beyond the process, in
// the storage that Caddy is configured with. It is a convenience: whatever happens
// to the storage, no request waits, and no more is lost than what would have to be
// learned anew. There are no locks, and the last writer wins.
package remember

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

const (
	// writeEvery is the pause between two writes of a process.
	writeEvery = 10 * time.Second

	// maxPause is the pause after writes that failed.
	maxPause = 10 * time.Minute

	// timeout is how long a storage may take.
	timeout = 5 * time.Second

	// maxEntries is how many keys are remembered. An upstream has two, one for each
	// protocol.
	maxEntries = 1000

	// maxStuck is how many operations of a storage that ignores its timeout may be
	// under way.
	maxStuck = 4

	// refresh is how old a stored value gets before it is written again only because
	// it was seen again.
	refresh = time.Hour
)

// A Storage is what of a certmagic.Storage is used. A missing key is
// fs.ErrNotExist.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	Delete(ctx context.Context, key string) error
}

// A Learner is what remembers within the process.
type Learner interface {
	Export(now time.Time) (idletime.Memory, bool)
	Import(now time.Time, m idletime.Memory)
}

// A Store remembers what learners learn. All its work is done on a goroutine of its
// own, which ends when there is nothing to do.
type Store struct {
	instance func() (string, error)
	warn     func(err error)
	count    func(write, failed bool)

	stuck chan struct{} // a place for each operation under way

	mu       sync.Mutex
	storages []*Storage // of the configurations in use, the newest last
	entries  []*entry
	next     int // whose turn it is to be written
	running  bool
	told     told
	wake     chan struct{}
}

type entry struct {
	key     Key
	learner Learner
	loaded  bool
	stored  idletime.Memory // zero: nothing of ours is in the storage
}

// told is what was warned of.
type told struct {
	failing   bool // the storage, and it has not come back since
	byRead    bool // when something was read
	corrupted bool // a value
}

// New returns a Store for one instance of Caddy, whose id is asked for when it is
// needed. warn is called for the first failure of a storage, and again only when it
// has worked meanwhile; for values that are no good, once. count is called for each
// read and write.
func New(instance func() (string, error), warn func(err error), count func(write, failed bool)) *Store {
	return &Store{instance: instance, warn: warn, count: count, stuck: make(chan struct{}, maxStuck), wake: make(chan struct{}, 1)}
}

// Use makes a storage the one to be used, until another one is or release is called.
// Nothing is read or written now.
func (s *Store) Use(storage Storage) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := &storage
	s.storages = append(s.storages, p)
	s.told = told{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.storages = slices.DeleteFunc(s.storages, func(q *Storage) bool { return q == p })
	}
}

// Remember has a learner told what is stored for a key, and what it learns written.
// It returns at once; without a storage, or with too many keys, it does nothing. It
// must be called once for each learner, and ended with Forget.
func (s *Store) Remember(k Key, l Learner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.storages) == 0 || len(s.entries) >= maxEntries {
		return
	}
	s.entries = append(s.entries, &entry{key: k, learner: l})
	if !s.running {
		s.running = true
		go s.run()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Forget ends what Remember began. What is stored stays.
func (s *Store) Forget(l Learner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = slices.DeleteFunc(s.entries, func(e *entry) bool { return e.learner == l })
}

// run loads and writes until there are no entries, or no storage.
func (s *Store) run() {
	pause := writeEvery
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		s.loadAll()
		select {
		case <-s.wake:
			continue
		case <-timer.C:
		}
		if failed := s.writeOne(time.Now()) != nil; failed {
			pause = min(2*pause, maxPause)
		} else {
			pause = writeEvery
		}
		timer.Reset(pause)
		if s.idle() {
			return
		}
	}
}

// idle ends run, if there is nothing left to do.
func (s *Store) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = len(s.entries) > 0 && len(s.storages) > 0
	return !s.running
}

// loadAll loads what is stored for new entries, one after the other. What fails is
// not tried again: by then the value may have been learned.
func (s *Store) loadAll() {
	for {
		s.mu.Lock()
		i := slices.IndexFunc(s.entries, func(e *entry) bool { return !e.loaded })
		if i < 0 {
			s.mu.Unlock()
			return
		}
		e := s.entries[i]
		e.loaded = true
		s.mu.Unlock()
		if found, err := s.load(e.key); err == nil && found != (idletime.Memory{}) {
			e.stored = found
			e.learner.Import(time.Now(), found)
		}
	}
}

// load returns what is stored for a key; zero, if nothing is.
func (s *Store) load(k Key) (idletime.Memory, error) {
	var found idletime.Memory
	stored, err := s.do(func(ctx context.Context, storage Storage, instance string) ([]byte, error) {
		return storage.Load(ctx, k.path(instance))
	})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		if found, err = parse(k, stored); err != nil {
			s.tellCorrupted(err)
			return found, err
		}
	}
	s.tell(false, err)
	return found, err
}

// writeOne writes the next entry that has changed, if there is one.
func (s *Store) writeOne(now time.Time) error {
	s.mu.Lock()
	all := slices.Clone(s.entries)
	next := s.next
	s.mu.Unlock()
	for i := range all {
		turn := (next + i) % len(all)
		e := all[turn]
		learned, known := e.learner.Export(now)
		if !changed(e.stored, learned, known) {
			continue
		}
		s.mu.Lock()
		s.next = turn + 1
		s.mu.Unlock()
		return s.write(e, learned, known)
	}
	return nil
}

// changed tells whether what is known now differs from what is stored by more than
// that it was seen once more.
func changed(stored, learned idletime.Memory, known bool) bool {
	if !known {
		return stored != (idletime.Memory{}) // a close has shown that it is wrong
	}
	return learned.KeepAlive != stored.KeepAlive || learned.AtLeast != stored.AtLeast ||
		learned.SeenAt.Sub(stored.SeenAt) >= refresh
}

func (s *Store) write(e *entry, learned idletime.Memory, known bool) error {
	_, err := s.do(func(ctx context.Context, storage Storage, instance string) ([]byte, error) {
		if !known {
			return nil, storage.Delete(ctx, e.key.path(instance))
		}
		text, err := encode(e.key, learned)
		if err != nil {
			return nil, err
		}
		return nil, storage.Store(ctx, e.key.path(instance), text)
	})
	if err == nil {
		e.stored = learned
	}
	s.tell(true, err)
	return err
}

var (
	errNoStorage = errors.New("remembering what was learned: there is no storage")
	errStuck     = fmt.Errorf("remembering what was learned: the storage did not answer within %s", timeout)
)

// do runs one operation, for no longer than the timeout even if the storage does not
// care for that. Whoever waits is the goroutine of the Store alone.
func (s *Store) do(operation func(ctx context.Context, storage Storage, instance string) ([]byte, error)) ([]byte, error) {
	storage := s.newest()
	if storage == nil {
		return nil, errNoStorage
	}
	select {
	case s.stuck <- struct{}{}:
	default:
		return nil, errStuck
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	type result struct {
		value []byte
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		var instance string
		if instance, r.err = s.instance(); r.err == nil {
			r.value, r.err = operation(ctx, *storage, instance)
		}
		<-s.stuck
		done <- r
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = errStuck
	}
	if r.err != nil && storage != s.newest() {
		r.err = errNoStorage // what is wrong with one that is gone is no news
	}
	return r.value, r.err
}

// newest returns the storage of the newest configuration, or nil.
func (s *Store) newest() *Storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.storages) == 0 {
		return nil
	}
	return s.storages[len(s.storages)-1]
}

// tell counts an operation, and warns of a failure, unless an earlier one was told and
// the storage has not worked since. A storage that can only be read has not, whatever
// is read. That there is no storage any more is no failure.
func (s *Store) tell(write bool, err error) {
	if err == errNoStorage {
		return
	}
	s.count(write, err != nil)
	s.mu.Lock()
	first := err != nil && !s.told.failing
	switch {
	case first:
		s.told.failing, s.told.byRead = true, !write
	case err == nil && (write || s.told.byRead):
		s.told.failing = false
	}
	s.mu.Unlock()
	if first {
		s.warn(err)
	}
}

// tellCorrupted warns of a value that is no good, once.
func (s *Store) tellCorrupted(err error) {
	s.count(false, true)
	s.mu.Lock()
	first := !s.told.corrupted
	s.told.corrupted = true
	s.mu.Unlock()
	if first {
		s.warn(err)
	}
}
