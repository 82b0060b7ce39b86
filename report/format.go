package report

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// group returns n with thousands separators: 41,203.
func group(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural returns "1 one" or "n many", with thousands separators.
func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return group(n) + " " + many
}

// ordinal returns 6th, 51st.
func ordinal(n int) string {
	suffix := "th"
	if n%100 < 11 || n%100 > 13 {
		switch n % 10 {
		case 1:
			suffix = "st"
		case 2:
			suffix = "nd"
		case 3:
			suffix = "rd"
		}
	}
	return strconv.Itoa(n) + suffix
}

// span formats a duration that is to be read, not compared: 8 m 12 s.
func span(d time.Duration) string {
	if d < time.Minute {
		return seconds(d)
	}
	d = d.Round(time.Second)
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case h == 0:
		return strconv.Itoa(m) + " m " + strconv.Itoa(s) + " s"
	case h < 48:
		return strconv.Itoa(h) + " h " + strconv.Itoa(m) + " m"
	}
	return strconv.Itoa(h/24) + " d " + strconv.Itoa(h%24) + " h"
}

// seconds formats a duration that is to be compared with a setting: 5.998 s,
// 299.8 ms, 412 µs.
func seconds(d time.Duration) string { return significant(d, 4) }

// timeout formats a setting that was measured, and so is known less well: 6.00 s.
func timeout(d time.Duration) string { return significant(d, 3) }

// significant formats d with n significant digits.
func significant(d time.Duration, n int) string {
	switch a := d.Abs(); {
	case a == 0:
		return "0 s"
	case a < time.Millisecond:
		return strconv.FormatInt(int64(d.Round(time.Microsecond)/time.Microsecond), 10) + " µs"
	case a < time.Second:
		return digits(float64(d)/float64(time.Millisecond), n) + " ms"
	}
	return digits(d.Seconds(), n) + " s"
}

// digits formats x, which is 1 or more, with n significant digits, and with all
// of those before the decimal point.
func digits(x float64, n int) string {
	before := 1 + int(math.Floor(math.Log10(math.Abs(x))))
	return strconv.FormatFloat(x, 'f', max(0, n-before), 64)
}

// setting formats a duration as one would write it into a configuration: 5 s,
// 250 ms, 1.5 s.
func setting(d time.Duration) string {
	if d < time.Second {
		return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', -1, 64) + " ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
}

// escape makes a string from the network safe to print: what could drive a
// terminal, reorder or hide text, and bytes that are not UTF-8 come out as
// escapes, and so does a backslash, so that escapes cannot be forged.
func escape(s string) string { return printable(strings.ReplaceAll(s, `\`, `\\`)) }

// printable is escape for strings that are the program's own but may quote the
// network or a file name: backslashes are left alone.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + hex(uint32(s[0]), 2))
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			b.WriteString(`\x` + hex(uint32(r), 2))
		case r < 0x10000:
			b.WriteString(`\u` + hex(uint32(r), 4))
		default:
			b.WriteString(`\U` + hex(uint32(r), 8))
		}
		s = s[n:]
	}
	return b.String()
}

func hex(x uint32, width int) string {
	s := strconv.FormatUint(uint64(x), 16)
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// shorten cuts s to at most n characters, the last of them an ellipsis.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// wrap breaks text at spaces into lines of at most width characters. A word that
// is longer has a line of its own.
func wrap(text string, width int) []string {
	var lines []string
	var line string
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// A table aligns cells in columns.
type table struct {
	rows  [][]string
	right []bool // the columns that are aligned to the right
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// lines returns the rows, indented by two spaces and with two between columns.
func (t *table) lines() []string {
	var width []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, 0, len(t.rows))
	for _, row := range t.rows {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < len(t.right) && t.right[i] {
				cell = pad + cell
			} else {
				cell += pad
			}
			b.WriteString("  " + cell)
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}
