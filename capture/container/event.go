package container

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

const (
	// followEvery is how long an engine that is not there, or that went away, is left
	// alone.
	followEvery = time.Second
	// maxEvent bounds what an engine says of one event, in bytes: its labels are part
	// of it.
	maxEvent = 1 << 20
)

// A begun container is one that an engine has just started.
type begun struct {
	engine engine
	who    Container // Engine, ID and Name
}

// follow tells of each container that the engine starts, until ctx is done. The
// engine may come later, and go and come again: what it started meanwhile is not
// told.
func (e engine) follow(ctx context.Context, tell func(begun)) {
	for ctx.Err() == nil {
		_ = e.events(ctx, tell) // it ends with an error whenever the engine does
		select {
		case <-ctx.Done():
		case <-time.After(followEvery):
		}
	}
}

// events asks for events: GET /events. It returns when the engine ends.
func (e engine) events(ctx context.Context, tell func(begun)) error {
	query := url.Values{"filters": {`{"type":["container"],"event":["start"]}`}}
	name, resp, err := e.open(ctx, "/events?"+query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		var a struct {
			Type, Action string
			Actor        struct {
				ID         string
				Attributes map[string]string
			}
		}
		if json.Unmarshal(lines.Bytes(), &a) != nil || a.Type != "container" || a.Action != "start" || !isID(a.Actor.ID) {
			continue
		}
		tell(begun{e, Container{Engine: name, ID: a.Actor.ID, Name: a.Actor.Attributes["name"], State: "running"}})
	}
	return lines.Err()
}
