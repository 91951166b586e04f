// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

var errSilent = errors.New("it accepts the stream and sends no table")

// follow keeps a stream to istiod until ctx ends.
func (s *Source) follow(ctx context.Context, stream func(context.Context) error) {
	pause := backoff{timing: s.timing}
	for ctx.Err() == nil {
		began := time.Now()
		err := stream(ctx)
		if ctx.Err() != nil {
			return
		}
		// Istiod ends every stream now and then, to move its clients around: that is no
		// trouble until it cannot be reached again.
		if s.isUp() && s.lasted() == 0 {
			s.failed(away, fmt.Errorf("the stream has ended: %w", err))
			s.Logger.Info("the stream has ended; connect again", "err", err)
		} else if s.failed(away, err) {
			s.Logger.Warn("istiod is away; names stay as they were", "err", err, "hint", hint(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause.wait(time.Since(began), rand.Float64())):
		}
	}
}

// stream follows istiod over one connection, in deltas if it knows them. It returns why
// that ended.
func (s *Source) stream(ctx context.Context) error {
	k, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer k.close()
	err = s.watch(ctx, k, delta)
	if statusIs(err, statusUnimplemented) {
		err = s.watch(ctx, k, whole)
	}
	return k.why(err)
}

// watch takes tables until the stream ends.
func (s *Source) watch(ctx context.Context, k *connection, d dialect) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(s.patience, func() { cancel(errSilent) })
	defer silence.Stop()
	err := s.watchUntil(ctx, k, d, func() { silence.Stop() })
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

func (s *Source) watchUntil(ctx context.Context, k *connection, d dialect, heard func()) error {
	to, err := k.open(ctx, d.method, d.request(request{node: s.node(k.local)}))
	if err != nil {
		return err
	}
	defer to.close()
	var named []string // resources that are there
	version := ""      // that was taken last
	for {
		message, err := to.receive()
		if err != nil {
			return err
		}
		heard()
		r, err := d.response(message)
		if err != nil {
			return fmt.Errorf("read a response: %w", err)
		}
		answer := request{nonce: r.nonce, version: r.version}
		if err := s.use(r, &named); err != nil {
			answer.version, answer.fault = version, err.Error()
			if s.failed(wrong, err) {
				s.Logger.Warn("istiod's table is refused; names stay as they were", "err", err)
			}
		}
		version = answer.version
		// If the stream has ended, receive knows why.
		_ = to.send(d.request(answer))
	}
}

// use takes the table of a response. Named are the resources that are there.
func (s *Source) use(r response, named *[]string) error {
	switch {
	case r.typeURL != tableType:
		return fmt.Errorf("it sent %q, which nobody has asked for", r.typeURL)
	case len(r.resources) > 1:
		return fmt.Errorf("it sent %d tables, where there is one for all", len(r.resources))
	case len(r.resources) == 0:
		// There is nothing new, unless what was there is gone.
		if slices.ContainsFunc(*named, func(name string) bool { return slices.Contains(r.removed, name) }) {
			*named = nil
			s.take(nil)
		}
		return nil
	}
	table := r.resources[0]
	if table.typeURL != tableType {
		return fmt.Errorf("a resource is %q, no name table", table.typeURL)
	}
	hosts, err := parseTable(table.value)
	if err != nil {
		return err
	}
	*named = []string{table.name}
	s.take(hosts)
	return nil
}
