package message

// Apply returns a new Header with the header edits applied; envelope edits are ignored. Fields that no edit names keep their
// bytes. h is not changed. An edit's index counts in h as it was before all edits.
func (h *Header) Apply(edits Edits) (*Header, error) {
	a := applier{fields: make([]slot, len(h.fields))}
	for i, f := range h.fields {
		a.fields[i].field = f
	}
	for _, e := range edits.list {
		if err := a.edit(e); err != nil {
			return nil, err
		}
	}
	out := &Header{end: h.end}
	for i := 0; i <= len(h.fields); i++ {
		for _, ins := range a.inserts {
			if min(ins.at, len(h.fields)) == i {
				out.fields = append(out.fields, ins.field)
			}
		}
		if i < len(h.fields) && !a.fields[i].gone {
			out.fields = append(out.fields, a.fields[i].field)
		}
	}
	out.fields = append(out.fields, a.added...)
	if out.end == "" && len(out.fields) > 0 && len(h.fields) == 0 {
		out.end = "\r\n"
	}
	return out, nil
}

type slot struct {
	field Field
	gone  bool
}

type insert struct {
	at    int
	field Field
}

type applier struct {
	fields  []slot
	inserts []insert
	added   []Field
}

func (a *applier) edit(e Edit) error {
	switch e.op {
	case OpRemoveHeader:
		a.each(e, func(s *slot) { s.gone = true })
		return nil
	case OpReplaceHeader, OpInsertHeader, OpAddHeader:
	default:
		return nil
	}
	f, err := newField(string(e.appendField(nil)), 0)
	if err != nil {
		return err // impossible: NewEdit has checked the edit
	}
	switch e.op {
	case OpInsertHeader:
		a.inserts = append(a.inserts, insert{e.index, f})
	case OpAddHeader:
		a.added = append(a.added, f)
	case OpReplaceHeader:
		done := false
		a.each(e, func(s *slot) {
			s.field, s.gone = f, done
			done = true
		})
		if !done && e.index == 0 {
			a.added = append(a.added, f)
		}
	}
	return nil
}

// each calls its function for the fields that e names: all with its name, or the one with its index. An index beyond the last
// field names none.
func (a *applier) each(e Edit, visit func(*slot)) {
	n, key := 0, lower(e.name)
	for i := range a.fields {
		if a.fields[i].field.key != key {
			continue
		}
		if n++; e.index == 0 || e.index == n {
			visit(&a.fields[i])
		}
	}
}
