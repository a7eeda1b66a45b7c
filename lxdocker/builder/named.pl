# named.pl: reads a manifest or an image configuration from stdin, and prints its references in order, one per line:
#   config HEX SIZE       the configuration
#   layer HEX SIZE TYPE   a layer, and its declared type
#   diff HEX              an uncompressed layer
# Fails if the input is neither. Uses only perl-base, which has no JSON module.
my $text = do { local $/; <STDIN> };

sub nonsense { die "what should describe the image is no such document\n" }

sub value {
	$text =~ /\G\s+/gc;
	if ($text =~ /\G\{/gc) {
		my %members;
		until ($text =~ /\G[\s,]*\}/gc) {
			$text =~ /\G[\s,]+/gc;
			my $name = word();
			$text =~ /\G\s*:/gc or nonsense();
			$members{$name} = value();
		}
		return \%members;
	}
	if ($text =~ /\G\[/gc) {
		my @items;
		until ($text =~ /\G[\s,]*\]/gc) {
			$text =~ /\G[\s,]+/gc;
			push @items, value();
		}
		return \@items;
	}
	return $1 if $text =~ /\G([-+.0-9A-Za-z]+)/gc;
	return word();
}

# Escapes are not decoded: the wanted values have none.
sub word {
	$text =~ /\G"/gc or nonsense();
	my $start = pos $text;
	1 while $text =~ /\G(?:[^"\\]+|\\.)/gcs;
	$text =~ /\G"/gc or nonsense();
	return substr $text, $start, pos($text) - 1 - $start;
}

sub named {
	my ($what, $digest, $size, $type) = @_;
	!ref $digest && defined $digest && $digest =~ /^sha256:[0-9a-f]{64}\z/ or die "the image has a digest other than sha256\n";
	print join(' ', $what, substr($digest, 7), grep { defined && !ref && /^[!-~]+\z/ } $size, $type), "\n";
}

sub members { my ($found) = @_; ref $found eq 'HASH' ? $found : nonsense() }

sub items { my ($found) = @_; ref $found eq 'ARRAY' ? @$found : nonsense() }

my $document = members(value());
if ($document->{rootfs}) {
	named('diff', $_) for items(members($document->{rootfs})->{diff_ids});
} else {
	named('config', @{ members($document->{config}) }{qw(digest size)});
	named('layer', @{ members($_) }{qw(digest size mediaType)}) for items($document->{layers});
}
