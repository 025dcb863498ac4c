package connpool

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A function whose name ends in Locked needs the pool's lock, and so does who calls it, or
// uses a field that the lock guards. All others lock the pool first. What runs later, on
// another goroutine or once the pool is unlocked, has no lock. With the lock, nobody is
// told anything, and no system call is made.
func TestLocked(t *testing.T) {
	pkg := load(t)
	if len(pkg.guarded) < 30 {
		t.Fatalf("only %d fields found that the lock guards", len(pkg.guarded))
	}
	locked := 0
	for _, file := range pkg.files {
		for _, d := range file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil || fn.Name.Name == "unlock" {
				continue
			}
			if needsLock(fn.Name.Name) {
				locked++
				pkg.check(t, fn.Body, fn.Body.Pos(), fn.Body.End())
			} else {
				from, to := pkg.lockedPart(fn.Body)
				pkg.check(t, fn.Body, from, to)
			}
		}
	}
	if locked < 40 {
		t.Errorf("only %d functions found that need the lock", locked)
	}
}

// slow are functions that make system calls.
var slow = []string{"LooksAlive", "PathAlive", "Look", "Listen", "Silence", "proof", "deaf", "hangUp", "Close", "RoundTrip"}

func needsLock(function string) bool { return strings.HasSuffix(function, "Locked") }

// A loaded package is one whose own types are known. Those of others are not.
type loaded struct {
	fset    *token.FileSet
	files   []*ast.File
	info    types.Info
	guarded []types.Object // fields
}

func load(t *testing.T) *loaded {
	t.Helper()
	pkg := &loaded{fset: token.NewFileSet(), info: types.Info{Uses: make(map[*ast.Ident]types.Object)}}
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(pkg.fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		pkg.files = append(pkg.files, file)
	}
	cfg := types.Config{Importer: nothing{}, Error: func(error) {}}
	checked, _ := cfg.Check("connpool", pkg.fset, pkg.files, &pkg.info)
	for _, name := range []string{"byPool", "firsts", "pin"} {
		pkg.guarded = append(pkg.guarded, fields(checked, name)...)
	}
	pool := fields(checked, "Pool")
	after := slices.IndexFunc(pool, func(f types.Object) bool { return f.Name() == "mu" }) + 1
	pkg.guarded = append(pkg.guarded, pool[after:]...)
	return pkg
}

func fields(pkg *types.Package, name string) (all []types.Object) {
	for f := range pkg.Scope().Lookup(name).Type().Underlying().(*types.Struct).Fields() {
		all = append(all, f)
	}
	return all
}

// nothing imports packages as empty ones.
type nothing struct{}

func (nothing) Import(name string) (*types.Package, error) {
	pkg := types.NewPackage(name, path.Base(name))
	pkg.MarkComplete()
	return pkg, nil
}

// lockedPart returns where a function has the lock: from the first time that it locks the
// pool, and until the last time that it unlocks it, unless that is deferred.
func (pkg *loaded) lockedPart(body *ast.BlockStmt) (from, to token.Pos) {
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.DeferStmt:
			if called(n.Call) == "unlock" {
				to = body.End()
			}
		case *ast.CallExpr:
			switch name := called(n); {
			case name == "lock" && from == token.NoPos:
				from = n.Pos()
			case name == "unlock":
				to = max(to, n.Pos())
			}
		}
		return true
	})
	return from, to
}

// called returns the name of the function or method that is called.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// check reports what in a body needs the lock, but is not between two positions, where it
// is there, and what is there, but must not be.
func (pkg *loaded) check(t *testing.T, body ast.Node, from, to token.Pos) {
	t.Helper()
	ast.Inspect(body, func(n ast.Node) bool {
		inside := n != nil && n.Pos() >= from && n.Pos() < to
		switch n := n.(type) {
		case *ast.GoStmt:
			pkg.checkLater(t, n.Call)
			return false
		case *ast.CallExpr:
			if called(n) == "afterLocked" || called(n) == "AfterFunc" {
				pkg.check(t, n.Fun, from, to)
				pkg.checkLater(t, n.Args...)
				return false
			}
			if inside && slices.Contains(slow, called(n)) {
				t.Errorf("%s: %s with the pool's lock held", pkg.fset.Position(n.Pos()), called(n))
			}
		case *ast.Ident:
			if !inside && (needsLock(n.Name) || slices.Contains(pkg.guarded, pkg.info.Uses[n])) {
				t.Errorf("%s: %s needs the pool's lock", pkg.fset.Position(n.Pos()), n.Name)
			}
			if inside && n.Name == "events" {
				t.Errorf("%s: events are told with the pool's lock held", pkg.fset.Position(n.Pos()))
			}
		}
		return true
	})
}

// checkLater is check for functions that run without the lock.
func (pkg *loaded) checkLater(t *testing.T, later ...ast.Expr) {
	t.Helper()
	for _, expr := range later {
		pkg.check(t, expr, token.NoPos, token.NoPos)
	}
}
