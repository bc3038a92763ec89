package table

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// random value of a document.
func random(r *rand.Rand, depth int) any {
	switch n := r.IntN(9); {
	case n == 0:
		return nil
	case n == 1:
		return r.IntN(2) == 0
	case n == 2:
		return json.Number(fmt.Sprint(r.Int64()))
	case n < 6 || depth == 0:
		return strings.Repeat(string(rune(r.IntN(0x3000))), r.IntN(200))
	case n < 8:
		list := make([]any, r.IntN(4))
		for i := range list {
			list[i] = random(r, depth-1)
		}
		return list
	}
	object := map[string]any{}
	for range r.IntN(4) {
		object[fmt.Sprint("k", r.IntN(50))] = random(r, depth-1)
	}
	return object
}

// TestTable holds tables of several sizes against maps: every key that is there, keys that are not, and the order.
func TestTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1000, 1001, 5000, 60_000} {
		want := map[string]any{}
		var m Members
		var order []string
		for len(want) < n {
			key := strings.Repeat("x", r.IntN(3)) + fmt.Sprint(r.Uint32())
			if _, twice := want[key]; twice != m.Has(key) {
				t.Fatalf("%q: Has says %v", key, m.Has(key))
			} else if twice {
				continue
			}
			want[key] = random(r, 3)
			if err := m.Add(key, want[key]); err != nil {
				t.Fatal(err)
			}
			if order = append(order, key); m.Add(key, nil) != ErrTwice {
				t.Fatalf("%q could be added twice", key)
			}
		}
		got := m.Object().(*Table)
		if got.Len() != n || !reflect.DeepEqual(Unpack(got), any(want)) {
			t.Fatalf("%d entries are not those that were added", n)
		}
		for key := range want {
			if packed, ok := got.Get(key); !ok || !reflect.DeepEqual(packed.Decode(), want[key]) {
				t.Fatalf("%q: %v %v, want %v", key, packed, ok, want[key])
			}
			if _, ok := got.Get(key + "?"); ok {
				t.Fatalf("%q? is there", key)
			}
		}
		i := 0
		for key := range got.All() {
			if i >= Large && key != order[i] {
				t.Fatalf("entry %d is %q, %q was added", i, key, order[i])
			}
			i++
		}
		a, errA := json.Marshal(got)
		b, errB := json.Marshal(want)
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Fatalf("JSON differs: %v %v", errA, errB)
		}
	}
}

// TestLargeEntries do not fit the chunk that they would be in.
func TestLargeEntries(t *testing.T) {
	var m Members
	size := func(i int) int { return []int{1, 100, chunkSize - 40, chunkSize + 7, 3 * chunkSize}[i%5] }
	for i := range 100 {
		m.Large = 1
		if err := m.Add(fmt.Sprint(i), strings.Repeat(string(rune('a'+i%26)), size(i))); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		packed, ok := m.Object().(*Table).Get(fmt.Sprint(i))
		if !ok || packed.Decode() != strings.Repeat(string(rune('a'+i%26)), size(i)) {
			t.Fatalf("entry %d is not what it was", i)
		}
	}
}

func TestMembersStayAMap(t *testing.T) {
	add := func(m *Members, from, to int, v any) {
		for i := from; i < to; i++ {
			if err := m.Add(fmt.Sprint(i), v); err != nil {
				t.Fatal(err)
			}
		}
	}
	var few, plain, nested, spilt, odd, inner Members
	add(&inner, 0, Large, "x")
	add(&few, 0, Large-1, "x")
	plain.Plain = true
	add(&plain, 0, 2*Large, "x")
	add(&nested, 0, 1, map[string]any{"t": inner.Object()})
	add(&nested, 1, 2*Large, "x")
	add(&spilt, 0, 2*Large, "x")
	add(&spilt, 2*Large, 2*Large+1, inner.Object())
	add(&spilt, 2*Large+1, 2*Large+2, "x")
	add(&odd, 0, Large, struct{}{})
	for name, c := range map[string]struct {
		m *Members
		n int
	}{"few": {&few, Large - 1}, "plain": {&plain, 2 * Large}, "nested": {&nested, 2 * Large}, "spilt": {&spilt, 2*Large + 2}, "odd": {&odd, Large}} {
		if object, ok := c.m.Object().(map[string]any); !ok || len(object) != c.n {
			t.Errorf("%s: %T of %d", name, c.m.Object(), Size(c.m.Object()))
		}
		if c.m.Add("0", "x") != ErrTwice {
			t.Errorf("%s: a key could be added twice", name)
		}
	}
	if object := new(Members).Object(); !reflect.DeepEqual(object, map[string]any{}) {
		t.Errorf("no members: %#v", object)
	}
}

func TestPack(t *testing.T) {
	large := map[string]any{}
	for i := range Large {
		large[fmt.Sprint("user", i)] = []any{"a@example.com", map[string]any{"address": "b@example.com"}}
	}
	data := map[string]any{"senders": large, "deep": map[string]any{"er": large, "x": "y"}, "list": []any{large}, "settings": map[string]any{"a": 1}}
	before := fmt.Sprint(data)
	packed := Pack(data)
	_, top := packed["senders"].(*Table)
	_, deep := packed["deep"].(map[string]any)["er"].(*Table)
	if !top || !deep || Holds(packed["list"]) {
		t.Errorf("packed %T %T", packed["senders"], packed["deep"])
	}
	if again := Pack(packed); again["senders"] != packed["senders"] {
		t.Error("what is packed is packed again")
	}
	if fmt.Sprint(data) != before {
		t.Error("the data has changed")
	}
	if !reflect.DeepEqual(Unpack(packed), any(data)) {
		t.Error("unpacked it is something else")
	}
}

func TestObjects(t *testing.T) {
	var m Members
	for i := range Large {
		if err := m.Add(fmt.Sprint(i), json.Number("7")); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []any{m.Object(), Unpack(m.Object())} {
		n := 0
		for key, child := range Each(v) {
			found, ok := Look(v, key)
			if !ok || Plain(found) != json.Number("7") || Plain(child) != json.Number("7") {
				t.Fatalf("%T: %s is %v and %v", v, key, child, found)
			}
			n++
		}
		if _, ok := Look(v, "none"); ok || !IsObject(v) || Size(v) != Large || n != Large {
			t.Errorf("%T: %d members, %d seen", v, Size(v), n)
		}
	}
	for _, v := range []any{nil, "x", []any{"x"}} {
		if _, ok := Look(v, "x"); ok || IsObject(v) || Size(v) != 0 {
			t.Errorf("%v is taken for an object", v)
		}
	}
	if (&Table{}).Len() != 0 {
		t.Error("the zero table is not empty")
	}
	if _, ok := (&Table{}).Get(""); ok {
		t.Error("the zero table has an entry")
	}
}

// TestFull: what does not fit an address is an error, not another entry.
func TestFull(t *testing.T) {
	b := newBuilder()
	b.t.chunks, b.out = make([][]byte, maxChunks), make([]byte, chunkSize)
	if err := b.add("x", Packed(rune(Null))); !errors.Is(err, errFull) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkTable is what an entry of a million users takes, to build and to keep.
func BenchmarkTable(b *testing.B) {
	users := 1_000_000
	if testing.Short() {
		users = 10_000
	}
	var table *Table
	before := heap()
	for b.Loop() {
		table = nil
		var m Members
		for i := range users {
			if err := m.Add(fmt.Sprint("user", i), []any{fmt.Sprint("user", i, "@example.com"), fmt.Sprint("u", i, "@example.org")}); err != nil {
				b.Fatal(err)
			}
		}
		table = m.Object().(*Table)
	}
	b.ReportMetric(float64(heap()-before)/float64(users), "B/entry")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(users), "ns/entry")
	runtime.KeepAlive(table)
}

func BenchmarkGet(b *testing.B) {
	sizes := []int{10_000, 1_000_000}
	if testing.Short() {
		sizes = sizes[:1]
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			var m Members
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprint("user", i)
				if err := m.Add(keys[i], "someone@example.com"); err != nil {
					b.Fatal(err)
				}
			}
			table := m.Object().(*Table)
			rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if _, ok := table.Get(keys[i%n]); !ok {
					b.Fatal(keys[i%n])
				}
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
