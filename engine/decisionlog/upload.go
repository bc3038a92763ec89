package decisionlog

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/safefile"
	"github.com/postern-mail/postern/internal/tlsprofile"
)

// Upload says where lines are sent. The request is that of OPA's decision log plugin: POST URL/logs with a JSON array of lines,
// compressed with gzip. Waiting lines are in memory only; use a file as well where they must not be lost.
type Upload struct {
	URL       string         // http:// or https://, to which /logs is added
	TokenFile string         // file with the token for Authorization: Bearer, read for every request; "": none
	Roots     *x509.CertPool // certificate authorities for the service; nil: those of the system
	UserAgent string         // "": postern

	Batch    int           // octets, before compression, after which a request is sent; 0: 256 KiB
	Interval time.Duration // the longest that a line waits for others; 0: 5 s
	Buffer   int           // octets that may wait; beyond that the oldest lines are lost; 0: 16 MiB
	Timeout  time.Duration // of a request; 0: 30 s
	Drain    time.Duration // the longest that Close sends; 0: 10 s
}

// Bounds of retrying.
const (
	firstRetry   = 100 * time.Millisecond
	lastRetry    = time.Minute
	longestAfter = 5 * time.Minute // limit of Retry-After
	closingRetry = time.Second     // while Close waits
)

// What the answer of a service may say about a batch.
var (
	errTooLarge = errors.New("it is too large for the service (413)")
	errRefused  = errors.New("the service refuses it")
)

// uploader is the goroutine that sends. Close limits how long it waits for the service.
type uploader struct {
	o      Upload
	target string
	client *http.Client
	log    *slog.Logger
	losses *losses
	buffer uploadBuffer

	zip     *gzip.Writer
	failing bool
	once    sync.Once // closes closing
	closing chan struct{}
	ended   chan struct{}
	ctx     context.Context
	stop    context.CancelFunc
}

func newUploader(o Upload, log *slog.Logger, losses *losses) (*uploader, error) {
	target, err := url.Parse(o.URL)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		return nil, fmt.Errorf("decision log: upload: %q is not the URL of a service", o.URL)
	}
	o.UserAgent = cmp.Or(o.UserAgent, "postern")
	o.Batch = cmp.Or(max(o.Batch, 0), 256<<10)
	o.Interval = cmp.Or(max(o.Interval, 0), 5*time.Second)
	o.Buffer = cmp.Or(max(o.Buffer, 0), 16<<20)
	o.Timeout = cmp.Or(max(o.Timeout, 0), 30*time.Second)
	o.Drain = cmp.Or(max(o.Drain, 0), 10*time.Second)
	secure := tlsprofile.New()
	secure.RootCAs = o.Roots
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConns: 1, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: o.Timeout, TLSClientConfig: secure,
	}
	u := &uploader{
		o: o, target: target.JoinPath("logs").String(), log: log, losses: losses,
		// A redirect would turn POST into GET, or send the token to another host.
		client: &http.Client{Transport: transport, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}},
		zip: gzip.NewWriter(nil), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	u.buffer = uploadBuffer{batch: o.Batch, limit: o.Buffer, interval: o.Interval, ready: make(chan struct{}, 1)}
	u.ctx, u.stop = context.WithCancel(context.Background())
	return u, nil
}

// offer takes lines, each with its line end.
func (u *uploader) offer(lines []byte) {
	if n := u.buffer.add(lines, time.Now()); n > 0 {
		u.losses.add(lostBuffer, n)
	}
}

// close sends the waiting lines within Drain. The writer has ended before.
func (u *uploader) close() {
	u.once.Do(func() { close(u.closing) })
	timer := time.AfterFunc(u.o.Drain, u.stop)
	defer timer.Stop()
	<-u.ended
}

func (u *uploader) isClosing() bool {
	select {
	case <-u.closing:
		return true
	default:
		return false
	}
}

func (u *uploader) run() {
	defer close(u.ended)
	defer u.stop()
	defer u.client.CloseIdleConnections()
	for {
		closing := u.isClosing()
		p, wait := u.buffer.take(time.Now(), closing)
		switch {
		case p != nil:
			u.deliver(p)
			u.buffer.sent(p)
			continue
		case closing:
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-u.buffer.ready:
		case <-timer.C:
		case <-u.closing:
		}
		timer.Stop()
	}
}

// deliver tries to send p until the service accepts it, refuses it, or the time is over.
func (u *uploader) deliver(p *pack) {
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		after, err := u.post(p)
		if err == nil {
			if u.failing {
				u.log.Info("decision log: uploading again", "url", u.target)
			}
			u.failing = false
			return
		}
		if errors.Is(err, errTooLarge) && p.lines > 1 {
			a, b := p.halves()
			u.deliver(a)
			u.deliver(b)
			return
		}
		if errors.Is(err, errTooLarge) || errors.Is(err, errRefused) {
			u.losses.add(lostRefused, p.lines)
			u.log.Error("decision log: decisions are not uploaded", "url", u.target, "decisions", p.lines, "err", err)
			return
		}
		if !u.failing {
			u.log.Error("decision log: cannot upload; trying again", "url", u.target, "err", err)
		}
		u.failing = true
		if !u.pause(max(after, retry/2+rand.N(retry/2))) {
			u.losses.add(lostShutdown, p.lines)
			return
		}
	}
}

// pause waits before the next attempt; false: there must not be one.
func (u *uploader) pause(d time.Duration) bool {
	closing := u.closing
	if u.isClosing() {
		d, closing = min(d, closingRetry), nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-closing: // try at once, because little time is left
	case <-u.ctx.Done():
	}
	return u.ctx.Err() == nil
}

// post sends p once. after is the delay that the service asks for.
func (u *uploader) post(p *pack) (after time.Duration, err error) {
	body, err := u.encode(p)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(u.ctx, http.MethodPost, u.target, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", u.o.UserAgent)
	if u.o.TokenFile != "" {
		token, err := safefile.ReadSecret(u.o.TokenFile)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token))
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection can be reused
	return retryAfter(resp.Header.Get("Retry-After"), time.Now()), verdictOf(resp)
}

// verdictOf returns the error of a response. Errors that time or an administrator may resolve are tried again.
func verdictOf(resp *http.Response) error {
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusRequestEntityTooLarge:
		return errTooLarge
	case code == http.StatusBadRequest || code == http.StatusUnprocessableEntity || code == http.StatusUnsupportedMediaType:
		return fmt.Errorf("%w: %s", errRefused, resp.Status)
	}
	return errors.New("the service answers " + resp.Status)
}

// retryAfter reads the header of that name (RFC 9110 §10.2.3).
func retryAfter(s string, now time.Time) time.Duration {
	var d time.Duration
	if n, err := strconv.Atoi(s); err == nil {
		d = time.Duration(min(n, int(longestAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(s); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), longestAfter)
}

// encode makes the body of a request.
func (u *uploader) encode(p *pack) ([]byte, error) {
	var out bytes.Buffer
	u.zip.Reset(&out)
	u.zip.Write([]byte{'['})
	rest := bytes.TrimSuffix(p.text, []byte{'\n'})
	for {
		line, more, found := bytes.Cut(rest, []byte{'\n'})
		u.zip.Write(line)
		if !found {
			break
		}
		u.zip.Write([]byte{','})
		rest = more
	}
	u.zip.Write([]byte{']'})
	if err := u.zip.Close(); err != nil { // returns the error of any failed write
		return nil, err
	}
	return out.Bytes(), nil
}

// pack is the lines of one request.
type pack struct {
	text  []byte // each with its line end
	lines int
	since time.Time // of the first line
}

// halves splits a pack of two or more lines.
func (p *pack) halves() (a, b *pack) {
	n := 0
	for range p.lines / 2 {
		n += bytes.IndexByte(p.text[n:], '\n') + 1
	}
	return &pack{p.text[:n], p.lines / 2, p.since}, &pack{p.text[n:], p.lines - p.lines/2, p.since}
}

// uploadBuffer holds the lines that wait for upload. The writer adds to it, and the uploader takes from it.
type uploadBuffer struct {
	batch, limit int // octets
	interval     time.Duration
	ready        chan struct{} // a pack is full, or there is a first line to wait for

	mu     sync.Mutex
	full   []*pack // the oldest first
	open   *pack   // nil: empty
	octets int     // of all lines, including those that were taken and not sent yet
}

// add adds lines and returns how many were lost. The oldest lines are dropped for the newest; a line that is larger than the
// buffer is dropped itself.
func (b *uploadBuffer) add(lines []byte, now time.Time) (lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake := b.open == nil
	for len(lines) > 0 {
		n := bytes.IndexByte(lines, '\n') + 1
		line := lines[:n]
		lines = lines[n:]
		for b.octets+n > b.limit && len(b.full) > 0 {
			b.octets -= len(b.full[0].text)
			lost += b.full[0].lines
			b.full = b.full[1:]
		}
		if b.octets+n > b.limit {
			lost++
			continue
		}
		if b.open != nil && len(b.open.text)+n > b.batch {
			b.full, b.open, wake = append(b.full, b.open), nil, true
		}
		if b.open == nil {
			b.open = &pack{since: now}
		}
		b.open.text = append(b.open.text, line...)
		b.open.lines++
		b.octets += n
	}
	if wake {
		select {
		case b.ready <- struct{}{}:
		default:
		}
	}
	return lost
}

// take returns the oldest pack that is due, or nil and the time until one is. With all, every pack is due.
func (b *uploadBuffer) take(now time.Time, all bool) (p *pack, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.full) > 0:
		p, b.full = b.full[0], b.full[1:]
	case b.open == nil:
		return nil, time.Hour
	case !all && now.Sub(b.open.since) < b.interval:
		return nil, b.interval - now.Sub(b.open.since)
	default:
		p, b.open = b.open, nil
	}
	return p, 0
}

// sent releases the space of p, which was taken.
func (b *uploadBuffer) sent(p *pack) {
	b.mu.Lock()
	b.octets -= len(p.text)
	b.mu.Unlock()
}
