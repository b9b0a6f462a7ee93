package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"github.com/accelhq/accel/core/config"
)

// maxRedirects bounds how often a URL may lead elsewhere.
const maxRedirects = 3

// fetcher gets pictures and sounds that requests name by URL. Requests choose the URL, so that it
// must not lead to what only this machine can reach.
type fetcher struct {
	config config.Fetch
	client *http.Client
}

// newFetcher returns nil where nothing may be fetched.
func newFetcher(c config.Fetch) *fetcher {
	if !c.Enabled {
		return nil
	}
	f := &fetcher{config: c}
	// Addresses are judged when they are dialled: what a name resolved to before may have changed.
	dialer := &net.Dialer{Control: func(_, address string, _ syscall.RawConn) error { return f.allowed(address) }}
	f.client = &http.Client{
		Timeout:   c.Timeout,
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true, TLSHandshakeTimeout: c.Timeout},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("it is redirected more than %d times", maxRedirects)
			}
			return f.named(r.URL)
		},
	}
	return f
}

// named refuses URLs by what they say.
func (f *fetcher) named(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("its scheme is %q; http, https and data are taken", u.Scheme)
	}
	if u.User != nil {
		return errors.New("it names a user")
	}
	host := strings.ToLower(u.Hostname())
	if len(f.config.Hosts) > 0 && !slices.ContainsFunc(f.config.Hosts, func(h string) bool {
		h = strings.ToLower(h)
		suffix, wild := strings.CutPrefix(h, "*")
		return host == h || wild && strings.HasSuffix(host, suffix)
	}) {
		return fmt.Errorf("host %s is none of fetch.hosts", host)
	}
	return nil
}

// allowed refuses addresses that are not of the public network.
func (f *fetcher) allowed(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if f.config.Private || ip.IsGlobalUnicast() && !ip.IsPrivate() && !sharedAddresses.Contains(ip) {
		return nil
	}
	return fmt.Errorf("address %s is not public; fetch.private allows it", ip)
}

// sharedAddresses are those of carriers (RFC 6598), which are private too.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

// Fetch is tasks.Fetcher's.
func (f *fetcher) Fetch(ctx context.Context, at string) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil {
		return nil, errors.New("its URL is malformed")
	}
	if err := f.named(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	res, err := f.client.Do(req)
	if err != nil {
		var wrapped *url.Error // whose text repeats the URL, which may be long
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("%s can't be fetched: %w", u.Host, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s", u.Host, res.Status)
	}
	most := int64(f.config.MaxBytes)
	data, err := io.ReadAll(io.LimitReader(res.Body, most+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s broke off: %w", u.Host, err)
	case int64(len(data)) > most:
		return nil, fmt.Errorf("%s sent more than %d bytes, which is fetch.max_bytes", u.Host, most)
	}
	return data, nil
}
