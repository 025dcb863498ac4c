package authority

import (
	"reflect"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// routesIn returns the lists of routes in the exported fields of a handler: those
// of reverse_proxy and intercept for responses, and what handlers of other
// authors have. It reads only fields that have routes in them: others may be
// changing while requests are served.
func routesIn(handler caddyhttp.MiddlewareHandler) (lists []caddyhttp.RouteList) {
	var look func(v reflect.Value, depth int)
	look = func(v reflect.Value, depth int) {
		if !canHoldRoutes(v.Type(), depth) {
			return
		}
		if v.Type() == routeListType {
			if list := v.Interface().(caddyhttp.RouteList); len(list) > 0 {
				lists = append(lists, list)
			}
			return
		}
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				look(v.Elem(), depth)
			}
		case reflect.Slice:
			for i := range v.Len() {
				look(v.Index(i), depth)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				if v.Type().Field(i).IsExported() {
					look(v.Field(i), depth+1)
				}
			}
		}
	}
	if v := reflect.ValueOf(handler); v.IsValid() {
		look(v, 0)
	}
	return lists
}

var routeListType = reflect.TypeFor[caddyhttp.RouteList]()

// deepest is how far down structs in structs are looked into.
const deepest = 3

// canHoldRoutes tells whether a value of a type can have a list of routes in it.
func canHoldRoutes(t reflect.Type, depth int) bool {
	if t == routeListType {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return canHoldRoutes(t.Elem(), depth)
	case reflect.Struct:
		if depth == deepest {
			return false
		}
		for i := range t.NumField() {
			if t.Field(i).IsExported() && canHoldRoutes(t.Field(i).Type, depth+1) {
				return true
			}
		}
	}
	return false
}
