//go:build influxd

// Package influxdb names the programs that `make influxdb` builds, so that go.sum covers them.
package influxdb

import (
	_ "github.com/influxdata/influxdb/v2/cmd/influxd"
	_ "github.com/influxdata/pkg-config"
)
