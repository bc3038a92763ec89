package relay

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// BenchmarkRelay measures messages a second over kept connections to a server in this process that drops everything, one after the
// other and several at once. The figures include the server's time.
func BenchmarkRelay(b *testing.B) {
	addr := blackHole(b)
	for _, size := range []int{4 << 10, 100 << 10} {
		for _, workers := range []int{1, 8} {
			b.Run(fmt.Sprintf("octets=%d/workers=%d", size, workers), func(b *testing.B) {
				h := openHop(b, Options{}, "smtp://"+addr)
				text := []byte(letter("X1", size))
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				next := make(chan struct{})
				done := make(chan error, workers)
				for range workers {
					go func() {
						var first error
						for range next {
							if err := relayOne(h, text); err != nil && first == nil {
								first = err
							}
						}
						done <- first
					}()
				}
				for b.Loop() {
					next <- struct{}{}
				}
				close(next)
				for range workers {
					if err := <-done; err != nil {
						b.Error(err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
			})
		}
	}
}

func relayOne(h Hop, text []byte) error {
	ctx := context.Background()
	tx, err := h.Begin(ctx, Envelope{From: path("<alice@example.com>"), ID: "B"})
	if err != nil {
		return err
	}
	defer tx.Abort()
	if err := tx.Rcpt(ctx, path("<bob@example.net>"), nil); err != nil {
		return err
	}
	_, err = tx.Data(ctx, int64(len(text)), func() io.Reader { return bytes.NewReader(text) })
	return err
}

// blackHole is a minimal server.
func blackHole(b *testing.B) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go swallow(nc)
		}
	}()
	return ln.Addr().String()
}

func swallow(nc net.Conn) {
	defer nc.Close()
	rd := bufio.NewReaderSize(nc, 64<<10)
	out := "220 x\r\n"
	for data := false; ; {
		if rd.Buffered() == 0 && out != "" {
			if _, err := io.WriteString(nc, out); err != nil {
				return
			}
			out = ""
		}
		line, err := rd.ReadSlice('\n')
		switch {
		case err != nil:
			return
		case data && string(line) != ".\r\n":
		case strings.HasPrefix(string(line), "DATA"):
			data = true
			out += "354 x\r\n"
		case strings.HasPrefix(string(line), "EHLO"):
			out += "250-x\r\n250-PIPELINING\r\n250 8BITMIME\r\n"
		default:
			data = false
			out += "250 x\r\n"
		}
	}
}
