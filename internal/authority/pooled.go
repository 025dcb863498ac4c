package authority

import "go.uber.org/zap"

// Refused is told of requests that a guard refused. It warns once of what start did
// not know: the certificate that led the client here.
func (s *Server) Refused(sni, host string) {
	snap := s.Snapshot()
	if snap.strictSNIHost || !snap.CertificateCovers(sni, host) {
		return
	}
	if site := snap.Site(sni); s.HTTP3() && !snap.guards.always(sni) && s.First("open "+site) {
		s.logger.Warn(sharedWithoutGuard, zap.Strings("sites", []string{site}), zap.String("host", host), zap.String("server", s.Name()))
	}
	if s.origins == nil && s.First("no origin") {
		s.logger.Warn(sharedWithoutOrigin, zap.Strings("sites", []string{host}), zap.String("sni", sni), zap.String("host", host), zap.String("server", s.Name()))
	}
}
