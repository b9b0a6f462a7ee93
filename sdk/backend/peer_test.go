//go:build unix

package backend

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func accept(t *testing.T, network, address string) net.Conn {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestPeerIsOfThisUser(t *testing.T) {
	dir, err := os.MkdirTemp("", "accel") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := accept(t, "unix", filepath.Join(dir, "s"))
	got, info, err := sameUser{}.ServerHandshake(c)
	if err != nil || got != c || info.AuthType() != "same-user" {
		t.Errorf("handshake with this process: %v, %v, %v", got, info, err)
	}
	if _, _, err := (sameUser{}).ServerHandshake(accept(t, "tcp", "127.0.0.1:0")); err == nil {
		t.Error("a connection whose peer nobody can tell was let in")
	}
	if _, _, err := (sameUser{}).ClientHandshake(t.Context(), "", c); err == nil {
		t.Error("the credentials worked for a client")
	}
}

func TestSocketFolder(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, path string
		mode       os.FileMode
		want       string
	}{
		{"none", "", 0o700, "is started by a host"},
		{"absent", filepath.Join(dir, "absent"), 0o700, "no such file"},
		{"a file", file, 0o700, "mode 0700"},
		{"open to the group", dir, 0o750, "mode 0700"},
		{"open to all", dir, 0o777, "mode 0700"},
		{"good", dir, 0o700, ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			if err := os.Chmod(dir, c.mode); err != nil {
				t.Fatal(err)
			}
			t.Setenv(EnvSocketDir, c.path)
			t.Setenv("PLUGIN_CLIENT_CERT", "")
			opts, err := credentialsOfPeer()
			if c.want == "" {
				if err != nil || len(opts) != 1 {
					t.Errorf("%d options, %v", len(opts), err)
				}
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	t.Setenv("PLUGIN_CLIENT_CERT", "a certificate")
	if opts, err := credentialsOfPeer(); err != nil || len(opts) != 0 {
		t.Errorf("with mutual TLS: %d options, %v", len(opts), err)
	}
}
