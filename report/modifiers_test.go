package report

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// TestEveryModifierHasAMeaning reads which modifiers package correlate adds.
func TestEveryModifierHasAMeaning(t *testing.T) {
	files, err := filepath.Glob("../correlate/*.go")
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]string{}
	var used []string
	add := func(e ast.Expr) {
		switch e := e.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(e.Value); err == nil {
				used = append(used, s)
			}
		case *ast.Ident:
			used = append(used, "const "+e.Name)
		}
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) {
						if lit, ok := n.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
							constants[name.Name], _ = strconv.Unquote(lit.Value)
						}
					}
				}
			case *ast.CallExpr: // append(x.modifiers, "word")
				if f, ok := n.Fun.(*ast.Ident); ok && f.Name == "append" && isModifiers(n.Args[0]) {
					for _, arg := range n.Args[1:] {
						add(arg)
					}
				}
			case *ast.KeyValueExpr: // ruling{modifiers: []string{"word"}}
				if list, ok := n.Value.(*ast.CompositeLit); ok && isModifiers(n.Key) {
					for _, e := range list.Elts {
						add(e)
					}
				}
			case *ast.AssignStmt: // x.modifiers = []string{"word"}
				if list, ok := n.Rhs[0].(*ast.CompositeLit); ok && isModifiers(n.Lhs[0]) {
					for _, e := range list.Elts {
						add(e)
					}
				}
			}
			return true
		})
	}
	if len(used) < 10 {
		t.Errorf("only %d modifiers found in package correlate: %q", len(used), used)
	}
	for _, m := range used {
		if name, ok := strings.CutPrefix(m, "const "); ok {
			if m, ok = constants[name]; !ok {
				continue // not a constant: a variable, whose values come from elsewhere
			}
		}
		if _, ok := modifierWords[m]; !ok {
			t.Errorf("modifier %s is not in modifierWords", m)
		}
	}
	for m, words := range modifierWords {
		for _, text := range []string{words.Meaning, words.Rule, words.Consequence} {
			if text == "" || strings.HasSuffix(text, ".") || unicode.IsUpper(rune(text[0])) || strings.ToLower(m) != m {
				t.Errorf("%s: %q is not a clause", m, text)
			}
		}
	}
}

func isModifiers(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return strings.EqualFold(e.Sel.Name, "modifiers")
	case *ast.Ident:
		return strings.EqualFold(e.Name, "modifiers")
	}
	return false
}

func TestExplainWord(t *testing.T) {
	for _, word := range append(modifiers(), timersWord) {
		var b strings.Builder
		if ok, err := ExplainWord(&b, word); !ok || err != nil || !strings.HasPrefix(b.String(), word) {
			t.Errorf("%s: %v, %v: %s", word, ok, err, b.String())
		}
		for line := range strings.Lines(b.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > explainWidth {
				t.Errorf("%s: %d wide: %q", word, n, line)
			}
		}
	}
	if ok, _ := ExplainWord(nil, "zebra"); ok {
		t.Error("zebra means something")
	}
	if got := Similar("duplicate-rsk"); !slices.Contains(got, "duplicate-risk") {
		t.Errorf("got %v", got)
	}
}

// TestLimitsAreOrdered holds the tables of idle timeouts to what LooksLike and
// the reader expect of them.
func TestLimitsAreOrdered(t *testing.T) {
	seen := map[string]string{}
	for _, table := range limitsTables {
		for _, k := range table.limits {
			if k.product == "" || k.setting == "" && k.note == "" {
				t.Errorf("%+v says nothing", k)
			}
			for _, token := range k.tokens {
				if token != strings.ToLower(token) {
					t.Errorf("%s: token %s is not in lower case", k.product, token)
				}
				if other, ok := seen[table.heading+token]; ok {
					t.Errorf("%s and %s both call themselves %s", other, k.product, token)
				}
				seen[table.heading+token] = k.product
			}
		}
	}
	for i := 1; i < len(middleLimits); i++ {
		if middleLimits[i].defaults[0] < middleLimits[i-1].defaults[0] {
			t.Errorf("%s is out of order", middleLimits[i].product)
		}
	}
}
