//go:build linux

package main

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// keep writes a case's captures, compressed, and its truth to a directory:
// NAME.client.pcap.gz, NAME.server.pcap.gz (or NAME.lo.pcap.gz), NAME.truth.jsonl.
func keep(dir, name, from string, captures []string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	for _, c := range captures {
		if err := compress(c, filepath.Join(dir, name+"."+filepath.Base(c)+".gz")); err != nil {
			return err
		}
	}
	b, err := os.ReadFile(filepath.Join(from, "truth.jsonl"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".truth.jsonl"), b, 0o666)
}

func compress(from, to string) error {
	in, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestCompression)
	if err != nil {
		return errors.Join(err, out.Close())
	}
	_, err = z.Write(in)
	return errors.Join(err, z.Close(), out.Close())
}

func uncompress(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Close())
}

// judgeKept judges what -record or -work left in a directory.
func (s *settings) judgeKept(dir, temp string, t *tally) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.truth.jsonl"))
	worked, e := filepath.Glob(filepath.Join(dir, "*", "truth.jsonl"))
	if err = errors.Join(err, e); err != nil {
		return err
	}
	files = append(files, worked...)
	if len(files) == 0 {
		return fmt.Errorf("nothing was kept in %s", dir)
	}
	any := false
	for _, file := range files {
		h, truths, err := readTruth(file)
		if err != nil {
			return err
		}
		if !s.only.MatchString(h.Case) {
			continue
		}
		any = true
		captures, err := capturesOf(file, filepath.Join(temp, h.Case))
		if err != nil {
			return err
		}
		line, err := s.judgeCase(&h, truths, captures, filepath.Join(temp, h.Case), t)
		if err != nil {
			return err
		}
		fmt.Fprintf(s.stdout, "%-28s %s\n", h.Case, line)
	}
	if !any {
		return fmt.Errorf("no case in %s is called %q", dir, s.only)
	}
	return nil
}

// capturesOf returns the captures that belong to a truth, uncompressed to temp if
// need be.
func capturesOf(truth, temp string) ([]string, error) {
	if err := os.MkdirAll(temp, 0o777); err != nil {
		return nil, err
	}
	var captures []string
	if name, ok := strings.CutSuffix(truth, ".truth.jsonl"); ok {
		zipped, err := filepath.Glob(name + ".*.pcap.gz")
		if err != nil {
			return nil, err
		}
		for _, z := range zipped {
			c := filepath.Join(temp, strings.TrimSuffix(filepath.Base(z), ".gz"))
			if err := uncompress(z, c); err != nil {
				return nil, err
			}
			captures = append(captures, c)
		}
	} else {
		for _, end := range []string{"lo", "client", "server"} {
			c := filepath.Join(filepath.Dir(truth), end+".pcap")
			if _, err := os.Stat(c); err == nil {
				captures = append(captures, c)
			}
		}
	}
	if len(captures) == 0 {
		return nil, fmt.Errorf("%s has no captures beside it", truth)
	}
	return captures, nil
}

// makeCerts makes a self-signed certificate for this run.
func makeCerts(dir string) (certs, error) {
	c := certs{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "both.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return c, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "witness"}, DNSNames: []string{"witness"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 77, 0, 2)},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return c, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return c, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	// Servers that give up root read the key before they do.
	return c, errors.Join(os.WriteFile(c.cert, certPEM, 0o644), os.WriteFile(c.key, keyPEM, 0o644),
		os.WriteFile(c.both, append(certPEM, keyPEM...), 0o644))
}
