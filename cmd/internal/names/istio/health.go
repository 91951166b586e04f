// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Why names are not kept up: istiod is away, or a table of it was refused.
const (
	away  = "away"
	wrong = "wrong"
)

// health says whether names are kept up.
type health struct {
	mutex sync.Mutex
	kind  string // why not; empty if they are
	since time.Time
	err   error
}

// failed notes why names are not kept up, and tells whether that is news.
func (h *health) failed(kind string, err error) bool {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.kind == "" {
		h.since = time.Now()
	}
	isNews := h.kind != kind || h.err.Error() != err.Error()
	h.kind, h.err = kind, err
	return isNews
}

// heard notes that names are kept up, and returns what was the matter before.
func (h *health) heard() (kind string, lasted time.Duration) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	kind, h.kind, h.err = h.kind, "", nil
	return kind, time.Since(h.since)
}

// lasted is for how long names have not been kept up, 0 if they are.
func (h *health) lasted() time.Duration {
	lasted, _ := h.Away()
	return lasted
}

// Away is for how long names have not been kept up, 0 if they are, and why.
func (h *health) Away() (time.Duration, error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.kind == "" {
		return 0, nil
	}
	return max(time.Since(h.since), 1), fmt.Errorf("%s: %w", h.kind, h.err)
}

// age says in words for how long names have not been kept up.
func (h *health) age() string {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	if h.kind == "" {
		return ""
	}
	return fmt.Sprintf(" (%s for %s)", h.kind, time.Since(h.since).Round(time.Second))
}

// hint is the remedy for what is wrong.
func hint(err error) string {
	text := err.Error()
	switch {
	case statusIs(err, statusUnauthenticated):
		return "istiod does not know the token or certificate: want a token for the audience istio-ca, and the cluster it is of"
	case statusIs(err, statusPermissionDenied):
		return "istiod wants namespace to be that of the token or certificate"
	case statusIs(err, statusUnimplemented):
		return "what answers there is no istiod: want its port 15012, or 15010 with plaintext"
	case strings.Contains(text, "x509:"):
		return "its certificate is not from rootCert, or not for serverName"
	case strings.Contains(text, "remote error: tls:"):
		return "istiod does not accept our certificate: renew cert and key, or give them if there are none"
	case strings.Contains(text, "tls:") || strings.Contains(text, "http2:") || strings.Contains(text, "gRPC"):
		return "what answers there does not speak gRPC, or one side speaks TLS and the other does not: want port 15012, or 15010 with plaintext"
	}
	return "it is asked again, less and less often"
}
