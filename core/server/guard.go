package server

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/accelhq/accel/core/config"
)

// keyring holds the hashes of the keys, so that comparing takes the same time
// whatever a client sends.
type keyring [][sha256.Size]byte

func newKeyring(keys []config.Secret, file string) (keyring, error) {
	var ring keyring
	for i, k := range keys {
		if strings.TrimSpace(k.Reveal()) == "" {
			return nil, fmt.Errorf("server.api_keys: key %d is empty; remove it", i)
		}
		ring = append(ring, sha256.Sum256([]byte(k.Reveal())))
	}
	if file == "" {
		return ring, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("server.api_key_file: %w", err)
	}
	defer f.Close()
	before := len(ring)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if k := strings.TrimSpace(lines.Text()); k != "" && !strings.HasPrefix(k, "#") {
			ring = append(ring, sha256.Sum256([]byte(k)))
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("server.api_key_file: %s: %w", file, err)
	}
	if len(ring) == before {
		return nil, fmt.Errorf("server.api_key_file: %s holds no key; put one into it, a line each", file)
	}
	return ring, nil
}

// holds compares with every key, found or not.
func (k keyring) holds(key string) bool {
	sum := sha256.Sum256([]byte(key))
	found := 0
	for i := range k {
		found |= subtle.ConstantTimeCompare(sum[:], k[i][:])
	}
	return found == 1
}

// allowed reports whether a request may see what keys protect.
func (s *Server) allowed(r *http.Request) bool {
	if len(s.keys) == 0 {
		return true
	}
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && s.keys.holds(strings.TrimSpace(key))
}

func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.allowed(r) {
			next.ServeHTTP(w, r)
			return
		}
		problem := &problem{Status: http.StatusUnauthorized, Type: invalidRequest, Code: "invalid_api_key",
			Message: "this key is not known here; send one of the server's keys as `Authorization: Bearer KEY`"}
		if r.Header.Get("Authorization") == "" {
			problem.Message = "this server wants a key; send it as `Authorization: Bearer KEY`"
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="accel"`)
		s.fail(w, r, problem)
	})
}

// protect keeps web pages out that were not let in: a browser sends requests to
// loopback for any page, and a page's name may be made to point there.
func (s *Server) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.public && !isLoopbackHost(r.Host) {
			s.fail(w, r, &problem{Status: http.StatusForbidden, Type: invalidRequest, Code: "FORBIDDEN_HOST",
				Message: fmt.Sprintf("requests for host %q are not answered without a key; ask for localhost, or set server.api_keys", r.Host)})
			return
		}
		origin := r.Header.Get("Origin")
		if origin != "" && slices.Contains(s.config.AllowOrigins, origin) {
			h := w.Header()
			h.Set("Access-Control-Allow-Origin", origin)
			h.Add("Vary", "Origin")
			h.Set("Access-Control-Expose-Headers", "X-Accel-Platform, X-Accel-Device-Kind, X-Accel-Device, X-Accel-Fallback, X-Accel-Replays, X-Accel-Notes, X-Request-Id, Retry-After")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", "GET, POST")
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id")
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		if err := s.guard.Check(r); err != nil {
			s.fail(w, r, &problem{Status: http.StatusForbidden, Type: invalidRequest, Code: "FORBIDDEN_ORIGIN",
				Message: fmt.Sprintf("pages of %q may not call this server; name the origin in server.allow_origins", origin)})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopbackHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
