// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/dnsteer/dnsteer/test/seed"
)

// conclude prints the table, and fails if a figure is not what the story claims.
func (d *demo) conclude(rows []row) error {
	const format = "%-40s %8v %7v %7v %6v\n"
	fmt.Fprintf(d.out, "\n"+format, "how DNS is intercepted", "queries", "right", "wrong", "lost")
	var errs []error
	for _, r := range rows {
		c := r.got.All()
		fmt.Fprintf(d.out, format, r.title, seed.Queries, c.Right, c.Wrong+c.Looped, c.Lost)
		if want := seed.Expect(r.got.Mode); r.got != want {
			errs = append(errs, fmt.Errorf("%s: %+v, should be %+v", r.title, r.got, want))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if rows[0].netfilter {
		fmt.Fprintln(d.out, "\nThe wrong ones: conntrack remembers a decision by source port. Half of them went past the")
		fmt.Fprintln(d.out, "resolver (no such name); in the other half the resolver was sent its own query.")
	}
	return nil
}
