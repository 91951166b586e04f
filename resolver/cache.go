// SPDX-License-Identifier: Apache-2.0

package resolver

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	// shardCount bounds how often two queries wait for one lock.
	shardCount = 16
	// clientLots and upstreamLots divide each shard by who caused an entry and who
	// is asked. 16 of each are few enough to look through at every eviction.
	clientLots, upstreamLots = 16, 16
	// overhead is what an entry costs beside its octets: two structs, the place in
	// the map, and slices (TestCacheMemory).
	overhead = 512
	// maxShare of a shard is what one answer may take.
	maxShare = 8
	// maxRecent changes of the table, at a hundred a second, are more than a second:
	// few questions are on their way for longer.
	maxRecent = 128
)

// cache is a bounded set of answers. It knows memory, not DNS; caching.go does.
//
// When it is full, the client that holds most gives an entry away, of the upstream
// of which that client holds most: nobody can take what others use. Among these
// entries it is the oldest one that nobody asked for since the last look (SIEVE,
// NSDI 2024): names that were asked for once make no room by pushing out those in
// use.
type cache struct {
	seed   maphash.Seed
	limit  int // octets of a shard
	shards [shardCount]shard
	// epoch counts the changes of the table. What was asked before one that concerns
	// it is not kept after it.
	epoch atomic.Uint64

	mu sync.Mutex // guards recent, and that epoch moves with it
	// recent are the last changes, by their epoch: what they take away, nil for all.
	recent [maxRecent]func(*cached) bool

	lookups    [lookupCount]atomic.Uint64 // of the long way
	prefetches atomic.Uint64
}

// newCache makes a cache for so many octets.
func newCache(octets int) *cache {
	c := &cache{seed: maphash.MakeSeed(), limit: octets / shardCount}
	for i := range c.shards {
		c.shards[i].entries = make(map[key]*cached)
	}
	return c
}

type shard struct {
	mu      sync.RWMutex // guards all below, and the fields of each entry
	entries map[key]*cached
	lots    [clientLots]struct {
		octets    int
		upstreams [upstreamLots]sieve
	}
	octets    int
	evictions uint64
}

// cached is one entry of a cache: an answer, and what went wrong since.
type cached struct {
	key    key
	answer *kept
	fault  *fault

	client, upstream uint8 // its lot
	octets           int
	newer, older     *cached
	visited          atomic.Bool
}

// client is whose an entry is.
type client struct {
	scope uint32
	addr  netip.Addr
}

// find returns what is kept under a key.
func (c *cache) find(k key) (*kept, *fault) {
	s := c.shard(k.name)
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.entries[k]
	if !ok {
		return nil, nil
	}
	if !e.visited.Load() {
		e.visited.Store(true)
	}
	return e.answer, e.fault
}

func (c *cache) shard(name wireName) *shard {
	return &c.shards[maphash.String(c.seed, string(name))%shardCount]
}

// shardOf is shard for a name on the wire, in lower case.
func (c *cache) shardOf(name []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, name)%shardCount]
}

// put replaces what is kept under a key.
func (c *cache) put(k key, from client, epoch uint64, answer *kept, fault *fault) {
	e := &cached{key: k, answer: answer, fault: fault, octets: overhead + len(k.name),
		client:   uint8(maphash.Comparable(c.seed, from) % clientLots),
		upstream: uint8(maphash.Comparable(c.seed, k.set) % upstreamLots)}
	e.octets += answer.size() + fault.size()
	if e.octets > c.limit/maxShare {
		return
	}
	s := c.shard(k.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	// The epoch moves before the shards are looked through.
	if c.epoch.Load() != epoch && c.isGone(e, epoch) {
		return
	}
	if old, ok := s.entries[k]; ok {
		e.visited.Store(old.visited.Load())
		s.remove(old)
	}
	s.add(e)
	for s.octets > c.limit {
		s.evict()
	}
}

// drop forgets a key.
func (c *cache) drop(k key) {
	s := c.shard(k.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[k]; ok {
		s.remove(e)
	}
}

// isGone reports whether a change since an epoch takes an entry away that was on its
// way.
func (c *cache) isGone(e *cached, since uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.epoch.Load()
	if now-since > maxRecent {
		return true
	}
	for at := since + 1; at <= now; at++ {
		if gone := c.recent[at%maxRecent]; gone == nil || gone(e) {
			return true
		}
	}
	return false
}

// purge forgets the entries that gone says, and all that are on their way; if gone may
// be asked for some time to come (lasting), only those that it says.
func (c *cache) purge(gone func(*cached) bool, lasting bool) {
	c.mu.Lock()
	epoch := c.epoch.Add(1)
	c.recent[epoch%maxRecent] = nil
	if lasting {
		c.recent[epoch%maxRecent] = gone
	}
	c.mu.Unlock()
	for i := range c.shards {
		c.shards[i].purge(gone)
	}
}

func (s *shard) purge(gone func(*cached) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if gone(e) {
			s.remove(e)
		}
	}
}

func (s *shard) add(e *cached) {
	s.entries[e.key] = e
	s.octets += e.octets
	s.lots[e.client].octets += e.octets
	s.lots[e.client].upstreams[e.upstream].add(e)
}

func (s *shard) remove(e *cached) {
	delete(s.entries, e.key)
	s.octets -= e.octets
	s.lots[e.client].octets -= e.octets
	s.lots[e.client].upstreams[e.upstream].remove(e)
}

// evict makes whoever holds most give something away.
func (s *shard) evict() {
	client := &s.lots[0]
	for i := range s.lots {
		if s.lots[i].octets > client.octets {
			client = &s.lots[i]
		}
	}
	most := &client.upstreams[0]
	for i := range client.upstreams {
		if client.upstreams[i].octets > most.octets {
			most = &client.upstreams[i]
		}
	}
	s.remove(most.victim())
	s.evictions++
}

// load is what the cache holds, and what it had to give away.
func (c *cache) load() (entries, octets int, evictions uint64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		entries += len(s.entries)
		octets += s.octets
		evictions += s.evictions
		s.mu.RUnlock()
	}
	return entries, octets, evictions
}
