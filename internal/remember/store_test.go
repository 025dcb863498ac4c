package remember

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-connreuse/connreuse/internal/idletime"
)

// A memoryStorage is a storage that can be made to fail.
type memoryStorage struct {
	mu     sync.Mutex
	values map[string][]byte
	writes []time.Time
	delay  func(ctx context.Context) error
}

func newStorage() *memoryStorage { return &memoryStorage{values: make(map[string][]byte)} }

// delayBy has each operation call delay first.
func (s *memoryStorage) delayBy(delay func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = delay
}

func (s *memoryStorage) wait(ctx context.Context) error {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	if delay == nil {
		return nil
	}
	return delay(ctx)
}

func (s *memoryStorage) Store(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	s.writes = append(s.writes, time.Now())
	s.mu.Unlock()
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key] = value
	return nil
}

func (s *memoryStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := s.wait(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return nil, fmt.Errorf("loading %s: %w", key, fs.ErrNotExist)
	}
	return value, nil
}

func (s *memoryStorage) Delete(ctx context.Context, key string) error {
	if err := s.wait(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *memoryStorage) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

func (s *memoryStorage) written() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.writes)
}

// A learner is a stub with what it knows set by the test.
type learner struct {
	mu       sync.Mutex
	memory   idletime.Memory
	known    bool
	imported []idletime.Memory
}

func (l *learner) Export(time.Time) (idletime.Memory, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.memory, l.known
}

func (l *learner) Import(_ time.Time, m idletime.Memory) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.imported = append(l.imported, m)
	l.memory, l.known = m, true
}

func (l *learner) set(d time.Duration, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.memory, l.known = idletime.Memory{}, known
	if known {
		l.memory = idletime.Memory{KeepAlive: d, SeenAt: time.Now().UTC()}
	}
}

func (l *learner) told() []idletime.Memory {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.imported
}

func keyOf(i int) Key {
	return Key{Scheme: "http", Network: "tcp", Address: fmt.Sprintf("192.0.2.1:%d", i), Protocol: "http/1.1"}
}

// open returns a Store of an instance over a storage, and the warnings it gave.
func open(t *testing.T, instance string, storage Storage) (s *Store, warnings func() []string) {
	var mu sync.Mutex
	var all []string
	s = New(func() (string, error) { return instance, nil }, func(f Failure) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, f.Err.Error())
	}, func(bool, bool) {})
	release := s.Use(storage)
	t.Cleanup(release)
	return s, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// end ends the goroutine of a Store whose learners are given.
func end(s *Store, learners ...*learner) {
	for _, l := range learners {
		s.Forget(l)
	}
	time.Sleep(2 * maxPause)
}

// What one process learns the next one knows, but not one on another machine that
// shares the storage.
func TestNextProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage()
		first, _ := open(t, "one", storage)
		l := new(learner)
		first.Remember(keyOf(1), l)
		time.Sleep(time.Minute)
		if storage.len() > 0 {
			t.Error("something is stored, though nothing was learned")
		}
		l.set(5*time.Second, true)
		time.Sleep(writeEvery)
		synctest.Wait()
		if storage.len() != 1 {
			t.Fatalf("%d values are stored %s after something was learned, want 1", storage.len(), writeEvery)
		}
		end(first, l)

		second, warnings := open(t, "one", storage)
		same, other := new(learner), new(learner)
		second.Remember(keyOf(1), same)
		second.Remember(keyOf(2), other)
		elsewhere, _ := open(t, "two", storage)
		foreign := new(learner)
		elsewhere.Remember(keyOf(1), foreign)
		synctest.Wait()
		if told := same.told(); len(told) != 1 || told[0].KeepAlive != 5*time.Second {
			t.Errorf("the next process was told %v", told)
		}
		if other.told() != nil || foreign.told() != nil {
			t.Errorf("told about another upstream: %v, on another machine: %v", other.told(), foreign.told())
		}
		if w := warnings(); len(w) > 0 {
			t.Errorf("warnings: %q", w)
		}
		end(second, same, other)
		end(elsewhere, foreign)
	})
}

// What turned out to be wrong is deleted, and what changes is written again; what was
// merely seen again, once an hour.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage()
		s, _ := open(t, "one", storage)
		l := new(learner)
		s.Remember(keyOf(1), l)
		for range 100 {
			l.set(5*time.Second, true) // seen again
			time.Sleep(time.Minute)
		}
		if n := len(storage.written()); n < 2 || n > 3 {
			t.Errorf("%d writes of one value in 100 minutes, want 2", n)
		}
		l.set(7*time.Second, true)
		time.Sleep(2 * writeEvery)
		if n := len(storage.written()); n < 3 {
			t.Errorf("another value was not written: %d writes", n)
		}
		l.set(0, false)
		time.Sleep(2 * writeEvery)
		if storage.len() > 0 {
			t.Error("a value that is wrong is still there")
		}
		end(s, l)
	})
}

// However many upstreams there are, there is one write in ten seconds, and a bound.
//
// Checklist: P28.
func TestManyUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage()
		s, _ := open(t, "one", storage)
		var all []*learner
		for i := range maxEntries + 100 {
			l := new(learner)
			l.set(5*time.Second, true)
			s.Remember(keyOf(i), l)
			all = append(all, l)
		}
		time.Sleep(maxEntries*writeEvery + time.Minute)
		synctest.Wait()
		if n := storage.len(); n != maxEntries {
			t.Errorf("%d upstreams are stored, want %d", n, maxEntries)
		}
		writes := storage.written()
		for i, at := range writes[1:] {
			if pause := at.Sub(writes[i]); pause < writeEvery {
				t.Fatalf("two writes within %s", pause)
			}
		}
		end(s, all...)
	})
}

// A storage that is broken, slow, read-only or full of nonsense costs one warning,
// and nobody waits for it.
func TestBadStorage(t *testing.T) {
	broken := errors.New("connection refused")
	for _, test := range []struct {
		name    string
		storage func() *memoryStorage
		warning string
	}{
		{"broken", func() *memoryStorage {
			s := newStorage()
			s.delayBy(func(context.Context) error { return broken })
			return s
		}, "connection refused"},
		{"slow", func() *memoryStorage {
			s := newStorage()
			s.delayBy(func(ctx context.Context) error {
				<-ctx.Done()
				return ctx.Err()
			})
			return s
		}, ""},
		{"deaf to timeouts", func() *memoryStorage {
			s := newStorage()
			s.delayBy(func(context.Context) error {
				time.Sleep(time.Hour)
				return nil
			})
			return s
		}, "did not answer within 5s"},
		{"corrupted", func() *memoryStorage {
			s := newStorage()
			for i := range 11 {
				s.values[keyOf(i).path("one")] = []byte(`{"version":1,`)
			}
			return s
		}, "parsing what is remembered"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, warnings := open(t, "one", test.storage())
				start := time.Now()
				var all []*learner
				for i := range 10 {
					l := new(learner)
					l.set(5*time.Second, true)
					s.Remember(keyOf(i), l)
					all = append(all, l)
				}
				if waited := time.Since(start); waited > 0 {
					t.Errorf("somebody waited for %s", waited)
				}
				time.Sleep(30 * time.Minute)
				for _, w := range warnings() {
					if !strings.Contains(w, test.warning) {
						t.Errorf("warning = %q, want one with %q", w, test.warning)
					}
				}
				// What comes later is no news, whether it is read or written.
				late := new(learner)
				s.Remember(keyOf(10), late)
				time.Sleep(30 * time.Minute)
				if n := len(warnings()); n != 1 {
					t.Errorf("%d warnings, want one: %q", n, warnings())
				}
				end(s, append(all, late)...)
				time.Sleep(2 * time.Hour) // what is deaf
			})
		})
	}
	t.Run("read-only", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			storage := readOnly{newStorage()}
			s, warnings := open(t, "one", storage)
			l := new(learner)
			l.set(5*time.Second, true)
			s.Remember(keyOf(0), l)
			for i := range 100 {
				other := new(learner)
				s.Remember(keyOf(i+1), other)
				time.Sleep(time.Minute)
				s.Forget(other)
			}
			if w := warnings(); len(w) != 1 || !strings.Contains(w[0], "permission denied") {
				t.Errorf("warnings = %q, want one", w)
			}
			if n := len(storage.written()); n > 30 {
				t.Errorf("%d writes were tried in 100 minutes, want fewer and fewer", n)
			}
			end(s, l)
		})
	})
}

// What was wrong with the storage of a configuration that is gone is no news.
func TestStorageThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newStorage()
		slow.delayBy(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		s, warnings := open(t, "one", slow)
		l := new(learner)
		s.Remember(keyOf(0), l)
		synctest.Wait()
		release := s.Use(newStorage())
		defer release()
		time.Sleep(time.Minute)
		if w := warnings(); len(w) > 0 {
			t.Errorf("warnings: %q", w)
		}
		end(s, l)
	})
}

// A warning says of which upstream something is not remembered, what was tried, where
// that is in the storage, and whose fault it is: the storage's or that of what it holds.
func TestWarningNamesPlaceAndFault(t *testing.T) {
	k := someKey
	path := k.path("one")
	fails := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	for _, test := range []struct {
		name    string
		set     func(*memoryStorage)
		invalid bool
		text    string
	}{
		{"reading fails", func(s *memoryStorage) { s.delayBy(fails(errors.New("connection refused"))) }, false,
			"reading '" + path + "': connection refused"},
		{"writing fails", func(s *memoryStorage) { s.delayBy(failsLater(errors.New("disk full"))) }, false,
			"writing '" + path + "': disk full"},
		{"cut off", func(s *memoryStorage) { s.values[path] = []byte(`{"version":1,`) }, true,
			"reading '" + path + "': parsing what is remembered: unexpected EOF"},
		{"another version", func(s *memoryStorage) { s.values[path] = []byte(`{"version":2}`) }, true,
			"reading '" + path + "': parsing what is remembered: version 2, must be 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newStorage()
				test.set(storage)
				var got []Failure
				s := New(func() (string, error) { return "one", nil }, func(f Failure) { got = append(got, f) }, func(bool, bool) {})
				release := s.Use(storage)
				defer release()
				l := new(learner)
				l.set(5*time.Second, true)
				s.Remember(k, l)
				time.Sleep(2 * writeEvery)
				end(s, l)
				if len(got) != 1 || got[0].Invalid != test.invalid || got[0].Err.Error() != test.text || got[0].Upstream != k.shown() {
					t.Errorf("warnings = %+v, want one, invalid = %v: %s", got, test.invalid, test.text)
				}
			})
		})
	}
}

// failsLater is the delay of a storage of which only the first operation works.
func failsLater(err error) func(context.Context) error {
	var operations int
	return func(context.Context) error {
		if operations++; operations == 1 {
			return nil
		}
		return err
	}
}

// A storage that is not asked, since it has too much to do, is not said to have been.
func TestBusyStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage()
		storage.delayBy(func(context.Context) error { time.Sleep(time.Hour); return nil })
		s, _ := open(t, "one", storage)
		for range maxStuck {
			if _, err := s.load(someKey); !errors.Is(err, errStuck) {
				t.Errorf("a deaf storage: %v", err)
			}
		}
		began := time.Now()
		if _, err := s.load(someKey); !errors.Is(err, errBusy) || time.Since(began) > 0 {
			t.Errorf("one with %d operations under way: %v after %s", maxStuck, err, time.Since(began))
		}
		time.Sleep(2 * time.Hour)
	})
}

type readOnly struct{ *memoryStorage }

func (s readOnly) Store(context.Context, string, []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes = append(s.writes, time.Now())
	return fs.ErrPermission
}

// Reads and writes are counted, and those that fail apart from the others.
func TestOperationsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type operation struct{ write, failed bool }
		counts := make(map[operation]int)
		s := New(func() (string, error) { return "one", nil }, func(Failure) {}, func(write, failed bool) {
			counts[operation{write, failed}]++
		})
		storage := newStorage()
		release := s.Use(storage)
		l := new(learner)
		s.Remember(keyOf(0), l)
		l.set(5*time.Second, true)
		time.Sleep(writeEvery + time.Second)
		storage.delayBy(func(context.Context) error { return errors.New("connection refused") })
		l.set(6*time.Second, true)
		time.Sleep(writeEvery)
		second := new(learner)
		s.Remember(keyOf(1), second)
		synctest.Wait()
		if want := map[operation]int{{false, false}: 1, {true, false}: 1, {true, true}: 1, {false, true}: 1}; !maps.Equal(counts, want) {
			t.Errorf("counted %v, want one of each", counts)
		}
		release()
		end(s, l, second)
	})
}

// Without a storage nothing happens; with two the newer one is used, until its
// configuration is gone.
func TestStorageOfTheNewestConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(func() (string, error) { return "one", nil }, func(f Failure) { t.Error(f.Err) }, func(bool, bool) {})
		nobody := new(learner)
		s.Remember(keyOf(0), nobody)
		first, second := newStorage(), newStorage()
		releaseFirst := s.Use(first)
		l := new(learner)
		s.Remember(keyOf(1), l)
		releaseSecond := s.Use(second)
		l.set(5*time.Second, true)
		time.Sleep(2 * writeEvery)
		if first.len() != 0 || second.len() != 1 {
			t.Errorf("%d values in the storage before, %d in the newest", first.len(), second.len())
		}
		releaseSecond()
		l.set(6*time.Second, true)
		time.Sleep(2 * writeEvery)
		if first.len() != 1 {
			t.Errorf("%d values in the storage that is left", first.len())
		}
		releaseFirst()
		l.set(7*time.Second, true)
		end(s, l)
	})
}
