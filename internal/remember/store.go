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

	// maxEntries is how many keys are remembered. An upstream has at most two, one for
	// each protocol.
	maxEntries = 2000

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
	warn     func(Failure)
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

// A Failure says what is not remembered, and why.
type Failure struct {
	Upstream Key  // without the password of its proxy
	Invalid  bool // what was read is no good; else the storage is
	Err      error
}

// told is what was warned of.
type told struct {
	failing bool // the storage, and it has not come back since
	byRead  bool // when something was read
	invalid bool // a value
}

// New returns a Store for one instance of Caddy, whose id is asked for when it is
// needed. warn is called for the first failure of a storage, and again only when it
// has worked meanwhile; for values that are no good, once. count is called for each
// read and write.
func New(instance func() (string, error), warn func(Failure), count func(write, failed bool)) *Store {
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
	found, err := s.do("reading", k, func(ctx context.Context, storage Storage, path string) (idletime.Memory, error) {
		stored, err := storage.Load(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			return idletime.Memory{}, nil
		}
		if err != nil {
			return idletime.Memory{}, err
		}
		return parse(k, stored)
	})
	s.tell(k, false, err)
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
	stored, err := s.do("writing", e.key, func(ctx context.Context, storage Storage, path string) (idletime.Memory, error) {
		if !known {
			return learned, storage.Delete(ctx, path)
		}
		text, err := encode(e.key, learned)
		if err != nil {
			return learned, err
		}
		return learned, storage.Store(ctx, path, text)
	})
	if err == nil {
		e.stored = stored
	}
	s.tell(e.key, true, err)
	return err
}

var (
	errNoStorage = errors.New("there is no storage")
	errStuck     = fmt.Errorf("the storage did not answer within %s", timeout)
	errBusy      = fmt.Errorf("the storage still has %d older operations to do, which took longer than %s", maxStuck, timeout)
)

// do runs one operation on the place of a key, for no longer than the timeout even if the
// storage does not care for that. Whoever waits is the goroutine of the Store alone.
func (s *Store) do(doing string, k Key, operation func(ctx context.Context, storage Storage, path string) (idletime.Memory, error)) (idletime.Memory, error) {
	storage := s.newest()
	if storage == nil {
		return idletime.Memory{}, errNoStorage
	}
	select {
	case s.stuck <- struct{}{}:
	default:
		return idletime.Memory{}, fmt.Errorf("%s what is remembered: %w", doing, errBusy)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	type result struct {
		memory idletime.Memory
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		if instance, err := s.instance(); err != nil {
			r.err = fmt.Errorf("reading the instance's id: %w", err)
		} else {
			path := k.path(instance)
			if r.memory, err = operation(ctx, *storage, path); err != nil {
				r.err = fmt.Errorf("%s '%s': %w", doing, path, err)
			}
		}
		<-s.stuck
		done <- r
	}()
	var r result
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = fmt.Errorf("%s what is remembered: %w", doing, errStuck)
	}
	if r.err != nil && storage != s.newest() {
		r.err = errNoStorage // what is wrong with one that is gone is no news
	}
	return r.memory, r.err
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
// is read. That there is no storage any more is no failure. An invalid value says nothing
// about the storage: of the first one is warned.
func (s *Store) tell(k Key, write bool, err error) {
	if err == errNoStorage {
		return
	}
	s.count(write, err != nil)
	invalid := errors.Is(err, errInvalid)
	s.mu.Lock()
	first := err != nil && !s.told.failing
	switch {
	case invalid:
		first, s.told.invalid = !s.told.invalid, true
	case first:
		s.told.failing, s.told.byRead = true, !write
	case err == nil && (write || s.told.byRead):
		s.told.failing = false
	}
	s.mu.Unlock()
	if first {
		s.warn(Failure{Upstream: k.shown(), Invalid: invalid, Err: err})
	}
}
